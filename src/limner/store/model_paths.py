"""`extra_model_paths.yaml`: model folders that lie elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.errors import BadInput

FILE_NAME = "extra_model_paths.yaml"


@dataclass(frozen=True)
class ExtraPath:
    """One more root of a model folder. `first`: looked at before the others."""

    key: str
    path: Path
    first: bool


def read_model_paths(file: Path) -> list[ExtraPath]:
    """The roots that a path file names, in its order.

    Sections are mappings of folder key to one path a line; `base_path` (with `~` and environment variables) is what
    the section's relative paths start from, the file's own folder without it; `is_default` puts them first.
    Raises BadInput that names file, section and key.
    """
    import yaml  # noqa: PLC0415 - few people have such a file

    try:
        sections = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadInput(f"The model path file {file} cannot be read.", why=str(error.strerror)) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"The model path file {file} is not valid YAML.", why=str(error)) from error
    if sections is None:
        return []
    if not isinstance(sections, dict):
        raise BadInput(f"The model path file {file} must hold named sections, not a {_kind(sections)}.")
    return [
        extra for name, section in sections.items() if section is not None for extra in _section(file, name, section)
    ]


def _section(file: Path, name: Any, section: Any) -> Iterator[ExtraPath]:
    where = f"{file}: {name}"
    if not isinstance(section, dict):
        raise BadInput(f"{where}: a section must map folder names to paths, not be a {_kind(section)}.")
    first = section.get("is_default", False)
    if not isinstance(first, bool):
        raise BadInput(f"{where}.is_default: {first!r} is neither true nor false.")
    base = section.get("base_path")
    start = file.absolute().parent
    if base is not None:
        start /= _expanded(_text(base, f"{where}.base_path"))
    for key, value in section.items():
        if key in {"base_path", "is_default"} or value is None:
            continue
        if not isinstance(key, str):
            raise BadInput(f"{where}: the folder name {key!r} is not text.")
        for line in _text(value, f"{where}.{key}").splitlines():
            if line.strip():
                yield ExtraPath(key, Path(os.path.normpath(start / _expanded(line.strip()))), first)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise BadInput(
            f"{where}: {value!r} is not a path but a {_kind(value)}.", do="Several paths go one a line after a `|`."
        )
    if "\0" in value:
        raise BadInput(f"{where}: a path cannot hold a null character.")
    return value


def _expanded(path: str) -> str:
    return os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111 - Path.expanduser raises on unknown users


def _kind(value: Any) -> str:
    names = {list: "list", dict: "mapping", str: "text", bool: "truth value", int: "number", float: "number"}
    return names.get(type(value), type(value).__name__)
