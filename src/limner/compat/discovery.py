"""Which packs there are: the folders and single files below the roots of `custom_nodes`, and what they say of
themselves.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

log = logging.getLogger(__name__)

PRESTARTUP = "prestartup_script.py"


@dataclass(frozen=True)
class Pack:
    """A folder with `__init__.py`, or a single file."""

    path: Path

    @property
    def name(self) -> str:
        """The name packs are listed under: the folder's, or the file's without its ending."""
        return self.path.stem if self.path.suffix == ".py" and not self.path.is_dir() else self.path.name

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.path.is_dir()

    @property
    def folder(self) -> Path:
        """The folder that its relative paths start from."""
        return self.path if self.is_folder else self.path.parent

    @property
    def entry(self) -> Path:
        """The file that is imported."""
        return self.path / "__init__.py" if self.is_folder else self.path

    @property
    def module(self) -> str:
        """The name of its module in `sys.modules`: its path, so that two packs of one name are two modules."""
        path = str(self.path) if self.is_folder else str(self.path.with_suffix(""))
        return path.replace(".", "_x_")

    @property
    def prestartup(self) -> Path | None:
        """Its script that runs before anything else, if it has one."""
        script = self.path / PRESTARTUP
        return script if self.is_folder and script.is_file() else None

    def sources(self) -> list[Path]:
        """Every file that decides what importing it does."""
        if not self.is_folder:
            return [self.path]
        inside = ((file, file.relative_to(self.path).parts) for file in self.path.rglob("*.py"))
        files = [file for file, parts in inside if not any(part.startswith(".") for part in parts)]
        own = self.path / "pyproject.toml"
        return sorted([*files, *([own] if own.is_file() else [])])

    def digest(self) -> str:
        """The sha256 of its sources."""
        sum_ = hashlib.sha256()
        for file in self.sources():
            sum_.update(str(file.relative_to(self.folder)).encode() + b"\0")
            sum_.update(hashlib.sha256(file.read_bytes()).digest())
        return sum_.hexdigest()

    def project(self) -> dict[str, Any]:
        """Its `pyproject.toml`, {} where there is none or it cannot be read."""
        try:
            return tomllib.loads((self.path / "pyproject.toml").read_text(encoding="utf-8")) if self.is_folder else {}
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            log.warning("%s/pyproject.toml cannot be read: %s", self.path, error)
            return {}

    def about(self) -> dict[str, Any]:
        """Name, version and the like, as its project file has them."""
        plain = self.project()
        project, comfy = _table(plain, "project"), _table(_table(plain, "tool"), "comfy")
        found = {key: project[key] for key in ("name", "version", "description") if isinstance(project.get(key), str)}
        keys = {"PublisherId": "publisher", "DisplayName": "display_name", "Icon": "icon"}
        return {**found, **{name: comfy[key] for key, name in keys.items() if isinstance(comfy.get(key), str)}}

    def project_web(self) -> tuple[str, Path] | None:
        """The name and the folder of scripts that its project file declares."""
        plain = self.project()
        web = _table(_table(plain, "tool"), "comfy").get("web")
        if not isinstance(web, str) or not web:
            return None
        return str(_table(plain, "project").get("name") or self.name), self.path / web


def _table(plain: dict[str, Any], key: str) -> dict[str, Any]:
    found = plain.get(key)
    return found if isinstance(found, dict) else {}


def discover(roots: Iterable[Path], *, disabled: bool = False, allowed: Collection[str] = ()) -> Iterator[Pack]:
    """The packs below the roots: roots in order, names sorted within one. A folder that two roots name counts once.

    disabled: only those that `allowed` names. Left out: `__pycache__`, names that end in `.disabled` or start with a
    dot, and files that are not Python.
    """
    seen: set[Path] = set()
    for root in roots:
        try:
            entries = sorted(root.iterdir(), key=lambda entry: entry.name)
        except OSError:
            continue  # nobody has made it
        for path in entries:
            real = path.resolve()
            if real in seen or path.name == "__pycache__" or path.name.startswith("."):
                continue
            if path.name.endswith(".disabled") or not (path.is_dir() or path.suffix == ".py"):
                continue
            pack = Pack(path)
            if disabled and path.name not in allowed and pack.name not in allowed:
                continue
            seen.add(real)
            yield pack
