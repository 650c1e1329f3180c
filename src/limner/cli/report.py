"""limner report: everything a bug report needs, without secrets."""

from __future__ import annotations

import json
import platform
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from limner import __version__
from limner.cli.redact import redact, redact_text
from limner.errors import BadInput, LimnerError
from limner.server.frontend import installed_version
from limner.settings import Settings

LOG_END = 200_000
"""Characters of the log that are taken, from its end."""
LIBRARIES = (
    *("torch", "numpy", "safetensors", "aiohttp", "pillow", "av", "sqlalchemy", "tokenizers", "scipy"),
    *("comfyui-frontend-package", "comfyui-workflow-templates", "comfyui-embedded-docs"),
)


def report(workflow: Path | None = None, /, *, settings: Settings, output: str = "") -> Iterator[str]:
    """Collect versions, devices, settings, packs, the last log and a workflow for a bug report, without secrets.

    Keys, tokens, passwords and the names of home folders are starred out; look it through all the same.

    workflow: the workflow or prompt that goes wrong, as JSON.
    output: a file ending in .zip or .txt; `-` prints the text. By default a .zip in this folder.
    """
    parts = collect(settings, workflow)
    target = Path(output or time.strftime("limner-report-%Y%m%d-%H%M%S.zip"))
    if output == "-":
        yield as_text(parts)
        return
    try:
        if target.suffix == ".zip":
            with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, text in parts.items():
                    archive.writestr(name, text)
        else:
            target.write_text(as_text(parts), encoding="utf-8")
    except OSError as error:
        raise LimnerError(f"{target} cannot be written.", why=f"{error.strerror}.", do="Give --output FILE.") from error
    yield f"{target} holds {', '.join(parts)}. Secrets are starred out; look it through before you send it."


def collect(settings: Settings, workflow: Path | None) -> dict[str, str]:
    """The parts of a report by file name, without secrets."""
    found = {
        "versions.txt": "\n".join(versions()),
        "devices.txt": "\n".join(state(settings)),
        "settings.json": _json(chosen(settings)),
        "packs.txt": "\n".join(packs(settings)),
        "log.txt": log(settings),
    }
    if workflow is not None:
        found["workflow.json"] = _json(read(workflow))
    return {name: text if name.endswith(".json") else redact_text(text) for name, text in found.items()}


def _json(value: Any) -> str:
    return json.dumps(redact(value), indent=2, ensure_ascii=False, default=str)


def as_text(parts: dict[str, str]) -> str:
    """The parts as one text."""
    return "\n".join(f"==== {name} ====\n{text.rstrip()}\n" for name, text in parts.items())


def versions() -> Iterator[str]:
    """Of Limner, Python, the system and the libraries."""
    yield f"limner {__version__}"
    yield f"Python {sys.version}"
    yield platform.platform()
    for name in LIBRARIES:
        yield f"{name} {installed_version(name) or 'is not installed'}"


def state(settings: Settings) -> Iterator[str]:
    """What `limner doctor` finds; a report is made even where that fails."""
    from limner.cli.doctor import doctor

    try:
        yield from doctor(settings)
    except Exception as error:  # whatever is broken is what the report is about
        yield f"limner doctor ended with {type(error).__name__}: {error}"


def chosen(settings: Settings) -> dict[str, Any]:
    """The settings that are not as they come."""
    default = Settings()
    names = [one.name for one in fields(Settings)]
    return {name: value for name in names if (value := getattr(settings, name)) != getattr(default, name)}


def packs(settings: Settings) -> Iterator[str]:
    """Node packs on disk, with what they say of their version. None of their code runs."""
    from limner.store import Store

    try:
        store = Store.open(settings, owned=False)
    except LimnerError as error:
        yield f"The folders cannot be opened: {error}"
        return
    try:
        for root in store.folders.roots("custom_nodes"):
            yield str(root)
            for folder in sorted(root.iterdir()) if root.is_dir() else ():
                if folder.name != "__pycache__":
                    yield f"  {folder.name}  {_version(folder / 'pyproject.toml')}".rstrip()
    finally:
        store.close()


def _version(project: Path) -> str:
    try:
        lines = project.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition("=")[2].strip(" \"'") for line in lines if line.strip().startswith("version")), "")


def log(settings: Settings) -> str:
    """The end of the last server's log, and of the one before."""
    from limner.server.logs import LOG_FILES
    from limner.store import folders_of

    texts = []
    for name in LOG_FILES:
        file = folders_of(settings)["user"] / name
        try:
            texts.append(f"---- {name}\n{file.read_text(encoding='utf-8', errors='replace')[-LOG_END:]}")
        except FileNotFoundError:
            texts.append(f"---- {name}: there is none")
        except OSError as error:
            texts.append(f"---- {name}: {error.strerror}")
    return "\n".join(texts)


def read(workflow: Path) -> Any:
    """The workflow as JSON. Raises BadInput for a file that is none."""
    try:
        return json.loads(workflow.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{workflow} cannot be read as JSON.", why=f"{error}.", do="Leave it out.") from error
