"""The tables of legacy names: one TOML file a module of ComfyUI, saying where each of its names is to be found."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "names"


@dataclass(frozen=True)
class Table:
    """What is known of one module.

    home: the module whose public names are this one's, or "". names: legacy name → `module:attribute`; they come before
    the home's. seams: names that packs replace, or patterns of them (`sample_*`); what is assigned goes to where the
    name lives, and the core reads it there. absent: legacy name → what to say of it. note: what to say of every name
    that is not known, or "".
    """

    home: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    seams: frozenset[str] = frozenset()
    absent: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def is_seam(self, name: str) -> bool:
        """Whether what is assigned to a name takes effect in the core; a seam may be a pattern (`sample_*`)."""
        return name in self.seams or any("*" in seam and fnmatchcase(name, seam) for seam in self.seams)

    def place(self, name: str) -> tuple[str, str] | None:
        """Module and attribute where a name lives, or None. A home may turn out not to have it."""
        target = self.names.get(name)
        if target is not None:
            module, _, attribute = target.partition(":")
            return module, attribute
        return (self.home, name) if self.home and not name.startswith("_") else None


def read_table(file: Path) -> Table:
    """The table of a file. Raises OSError and tomllib.TOMLDecodeError, and ValueError for keys that mean nothing."""
    plain: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    unknown = plain.keys() - {"home", "names", "seams", "absent", "note"}
    if unknown:
        raise ValueError(f"{file.name}: the keys {', '.join(sorted(unknown))} mean nothing in a table of names.")
    return Table(
        plain.get("home", ""),
        plain.get("names", {}),
        frozenset(plain.get("seams", ())),
        plain.get("absent", {}),
        plain.get("note", ""),
    )


@cache
def shipped() -> Mapping[str, Table]:
    """Every table that comes with Limner, by module name. One that is damaged is left out, and said to be."""
    found = {}
    for file in sorted(FOLDER.glob("*.toml")):
        try:
            found[file.stem] = read_table(file)
        except ValueError:  # noqa: PERF203 - one damaged table must not take every pack with it
            log.exception("The table of names %s cannot be read; the module is missing.", file.name)
    return found
