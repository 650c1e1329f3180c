"""The published table of legacy names: where each is to be found, whether it can be replaced, and which test uses it.

`python -m limner.compat.table tests/compat/legacy_names.txt tests/compat docs/legacy_names.md`
"""

from __future__ import annotations

import ast
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from limner.compat.finder import Finder
from limner.compat.homes.not_yet import PARTS, NotYet
from limner.store.atomic import write_atomic

State = Literal["works", "seam", "not yet", "absent", "of packs", "unknown"]
HEAD = """# Names of ComfyUI that node packs use

Counted over 18 packs: which of ComfyUI's Python names they import or read, where Limner has each, and what it says of
those that it does not have.

- **works**: the test uses it.
- **seam**: it works, and a pack may assign to it; Limner then calls the pack's.
- **not yet**: it can be imported, derived from and compared with; using it is an error that names the family or kind of
  model which is not supported yet.
- **absent**: reading it is an AttributeError with the reason given here.
- **of packs**: set by the pack itself before it is read.

Written by `make names`; held by `tests/compat/test_legacy_names.py`.
"""
COLUMNS = "| name | packs | state | where, or why not | test |\n|---|---|---|---|---|"


@dataclass(frozen=True)
class Name:
    """A name that packs use. packs: how many of those that were counted. note: why it is a pack's own, or ""."""

    name: str
    packs: int
    note: str = ""


@dataclass(frozen=True)
class Row:
    """What became of a name. home: module and attribute. reason: of one that is not there."""

    name: Name
    state: State
    home: str = ""
    reason: str = ""
    test: str = ""


def read_names(file: Path) -> list[Name]:
    """The names of a file of lines `COUNT NAME` or `COUNT NAME = NOTE`; lines with # are passed over."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            head, _, note = line.partition(" = ")
            packs, name = head.split()
            found.append(Name(name, int(packs), note))
    return found


def look_up(finder: Finder, name: Name) -> Row:
    """Resolve a name as a pack's import does."""
    parts = name.name.split(".")
    depth = next((n for n in range(len(parts), 0, -1) if finder.knows(".".join(parts[:n]))), 0)
    if not depth:
        return Row(name, "of packs" if name.note else "unknown", reason=name.note or "no module of that name")
    module, rest = ".".join(parts[:depth]), parts[depth:]
    table = finder.table(module)
    try:
        found = import_module(module)
        for part in rest:
            found = getattr(found, part)
    except (AttributeError, ImportError) as error:
        if name.note:
            return Row(name, "of packs", reason=name.note)
        told = rest and (rest[0] in table.absent or bool(table.note))
        return Row(name, "absent" if told else "unknown", reason=str(error))
    if not rest:
        return Row(name, "works", table.home)
    if isinstance(found, NotYet):
        part = str(found.__dict__.get("PART", ""))
        return Row(name, "not yet", reason=f"belongs to {PARTS.get(part, part)}, not supported yet")
    place = table.place(rest[0])
    home = ".".join(one for one in [*(place or (module, rest[0])), *rest[1:]] if one)
    return Row(name, "seam" if table.is_seam(rest[0]) and len(rest) == 1 else "works", home)


def uses(folder: Path, modules: Iterable[str]) -> dict[str, str]:
    """Which test uses a name first: dotted name → `path::test`, of every name that an expression of a test reads."""
    tops = frozenset(name.partition(".")[0] for name in modules)
    found: dict[str, str] = {}
    for file in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        shared = dict(_imports(tree.body, tops))
        for test in tree.body:
            if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef) and test.name.startswith("test_"):
                known = shared | dict(_imports(ast.walk(test), tops))
                known |= dict(_aliases(test, known))
                for name in _read(test, known):
                    parts = name.split(".")
                    for depth in range(1, len(parts) + 1):  # what is below a name uses the name
                        found.setdefault(".".join(parts[:depth]), f"{file.as_posix()}::{test.name}")
    return found


def _imports(nodes: Iterable[ast.AST], tops: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Local name → dotted legacy name."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in tops:
                    top = alias.name.partition(".")[0]
                    yield (alias.asname, alias.name) if alias.asname else (top, top)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in tops:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _aliases(test: ast.AST, known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """`local = module.name` → local and the dotted name."""
    for node in ast.walk(test):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = _chain(node.value, known)
            if name:
                yield node.targets[0].id, name


def _read(test: ast.AST, known: Mapping[str, str]) -> Iterator[str]:
    return (name for node in ast.walk(test) if (name := _chain(node, known)))


def _chain(node: ast.AST, known: Mapping[str, str]) -> str:
    """The dotted name that `a.b.c` reads, "" for other expressions."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return ".".join([known[node.id], *parts]) if isinstance(node, ast.Name) and node.id in known else ""


def rows(finder: Finder, names: Iterable[Name], tests: Mapping[str, str]) -> list[Row]:
    """What became of every name, the most used first."""
    ordered = sorted(names, key=lambda one: (-one.packs, one.name))
    found = (look_up(finder, name) for name in ordered)
    return [Row(row.name, row.state, row.home, row.reason, tests.get(row.name.name, "")) for row in found]


def markdown(found: Iterable[Row]) -> str:
    """The table as a page."""
    found = list(found)
    several = [row for row in found if row.name.packs > 1]
    single = [row for row in found if row.name.packs == 1]
    parts = [HEAD]
    for title, some in (("Used by two packs or more", several), ("Used by one", single)):
        states = sorted({row.state for row in some})
        counts = ", ".join(f"{sum(row.state == state for row in some)} {state}" for state in states)
        parts.append(f"\n## {title}\n\n{len(some)} names: {counts}.\n\n{COLUMNS}\n")
        parts += [_line(row) for row in some]
    return "".join(parts)


def _line(row: Row) -> str:
    where = (row.home or row.reason).replace("|", "\\|").replace("\n", " ")
    test = row.test.rpartition("::")
    shown = f"{Path(test[0]).name}::{test[2]}" if row.test else ""
    return f"| `{row.name.name}` | {row.name.packs} | {row.state} | {where} | {shown} |\n"


def main(names: str, tests: str, page: str) -> None:
    """Write the table of a file of names, with the tests of a folder, to a page."""
    from limner.compat.setup import Compat  # noqa: PLC0415 - brings the engine's side along
    from limner.engine import NodeRegistry  # noqa: PLC0415
    from limner.settings import Settings  # noqa: PLC0415
    from limner.store import Store  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(base_directory=folder)
        store = Store.open(settings)
        compat = Compat(settings, store, NodeRegistry.open(), cache=False)
        try:
            used = uses(Path(tests), compat.finder.names())
            found = markdown(rows(compat.finder, read_names(Path(names)), used))
        finally:
            compat.close()
            store.close()
    write_atomic(Path(page), found.encode())


if __name__ == "__main__":
    main(*sys.argv[1:4])
