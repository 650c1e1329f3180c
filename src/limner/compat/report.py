"""What became of each pack: for the log and for `GET /api/packs`."""

from __future__ import annotations

import logging
import re
import sys
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from limner.compat.discovery import Pack
from limner.compat.finder import Finder, VirtualModule

log = logging.getLogger(__name__)

State = Literal["loaded", "cached", "failed", "skipped"]
_CANNOT_IMPORT = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")


@dataclass
class Problem:
    """Why something of a pack does not work. missing: the name that was asked for; advice: what to use or do."""

    what: str
    type: str = ""
    file: str = ""
    line: int = 0
    missing: str = ""
    advice: str = ""

    def text(self) -> str:
        """One line for the log."""
        where = f"{self.file}:{self.line}: " if self.file else ""
        kind = f"{self.type}: " if self.type else ""
        return f"{where}{kind}{self.what}" + (f" {self.advice}" if self.advice else "")


@dataclass
class PackReport:
    """One pack. seconds: what its import took, prestartup script apart. kinds: the nodes it brought."""

    name: str
    path: str
    state: State = "loaded"
    seconds: float = 0.0
    prestartup_seconds: float = 0.0
    kinds: list[str] = field(default_factory=list)
    web: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    patches: list[dict[str, Any]] = field(default_factory=list)
    cacheable: str = ""
    about: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


def explain(error: BaseException, pack: Pack, finder: Finder | None) -> Problem:
    """What went wrong, where in the pack, and what to do about it."""
    file, line = _place(error, pack.folder)
    missing, advice = _missing(error, pack, finder)
    text = str(error) or f"it ended with {type(error).__name__}"
    if isinstance(error, SystemExit):
        text = f"it called sys.exit({error.code!r})"
    if advice and advice in text:
        advice = ""
    return Problem(text, type(error).__name__, file, line, missing, advice)


def _place(error: BaseException, folder: Path) -> tuple[str, int]:
    """File and line of the innermost frame that is the pack's."""
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno or 0
    inside = [one for one in traceback.extract_tb(error.__traceback__) if Path(one.filename).is_relative_to(folder)]
    return (inside[-1].filename, inside[-1].lineno or 0) if inside else ("", 0)


def _missing(error: BaseException, pack: Pack, finder: Finder | None) -> tuple[str, str]:
    """The name that is missing and what to say of it."""
    if isinstance(error, AttributeError) and isinstance(error.obj, VirtualModule):
        return f"{error.obj.__name__}.{error.name}", str(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        if finder is not None and finder.knows(error.name.partition(".")[0]):
            return error.name, f"Limner has no module {error.name}."
        wants = pack.folder / "requirements.txt"
        how = f"pip install -r {wants}" if pack.is_folder and wants.is_file() else f"pip install {error.name}"
        return error.name, f"Install what the pack needs: {how}."
    found = _CANNOT_IMPORT.search(str(error)) if isinstance(error, ImportError) else None
    if found is not None:
        module = sys.modules.get(found[2])
        if isinstance(module, VirtualModule):
            return f"{found[2]}.{found[1]}", module.why_missing(found[1])
        return f"{found[2]}.{found[1]}", ""
    return "", ""
