"""Importing ComfyUI's modules: a finder that makes virtual modules from the tables of names.

A name is imported when it is first asked for and read where it lives each time, so what is assigned to a seam is what
the core and every pack see. What is assigned to anything else stays on the virtual module: packs read it back, the core
does not, and the log says so once.
"""

from __future__ import annotations

import difflib
import logging
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from limner.compat.elsewhere import Elsewhere
from limner.compat.tables import Table, shipped

log = logging.getLogger(__name__)

_MISSING = object()
_MACHINERY = frozenset({"__loader__", "__spec__", "__path__", "__package__", "__file__", "__cached__", "__name__"})


@dataclass(frozen=True)
class Patch:
    """One assignment of a pack to a name of a virtual module. seam: whether it takes effect in the core."""

    module: str
    name: str
    file: str
    line: int
    seam: bool


class VirtualModule(ModuleType):
    """A module of ComfyUI's that exists as a table.

    Raises AttributeError for what it does not have, so that `from module import name` raises ImportError; both say
    what to use in its place or why it is not there.
    """

    _finder: Finder
    _table: Table

    def __init__(self, name: str, finder: Finder, table: Table) -> None:
        super().__init__(name, f"{name}, as node packs know it.")
        object.__setattr__(self, "_finder", finder)
        object.__setattr__(self, "_table", table)

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return self._public()
        if name == "__file__":
            return str(self._finder.file_of(self.__name__))
        if name.startswith("__") and name.endswith("__") and name not in self._table.names:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = self._look_up(name)
        if value is not _MISSING:
            return value
        child = f"{self.__name__}.{name}"
        if self._finder.knows(child):
            return import_module(child)
        if name not in self._table.absent and not self._table.note:
            value = self._finder.elsewhere.find(self.__name__, name)
            if value is not None:
                return value
        raise AttributeError(self.why_missing(name), name=name, obj=self)

    def _look_up(self, name: str) -> Any:
        table = self._table
        place = None if name in table.absent else table.place(name)
        if place is None:
            return _MISSING
        try:
            home = import_module(place[0])
        except ImportError as error:
            # `hasattr` and `from … import` understand an AttributeError; anything else would end the pack's import.
            raise AttributeError(f"{self.__name__}.{name} cannot be used: {error}", name=name, obj=self) from error
        return getattr(home, place[1], _MISSING) if place[1] else home

    def why_missing(self, name: str) -> str:
        """What to say of a name that is not there."""
        full = f"{self.__name__}.{name}"
        if name in self._table.absent:
            return f"{full}: {self._table.absent[name]}"
        if self._table.note:
            return f"{full}: {self._table.note}"
        if name in self._table.names:
            return f"{full} should be {self._table.names[name]}, which is not there."
        near = difflib.get_close_matches(name, self.__dir__(), 3)
        return f"{full} is unknown to Limner." + (f" Nearest: {', '.join(near)}." if near else "")

    def __setattr__(self, name: str, value: Any) -> None:
        is_child = isinstance(value, ModuleType) and value.__name__ == f"{self.__name__}.{name}"
        if name in _MACHINERY or is_child:
            object.__setattr__(self, name, value)
            return
        if self._table.is_seam(name) and (place := self._table.place(name)) is not None:
            self._finder.set_seam(place, value)
            self._finder.note(self.__name__, name, seam=True)
            return
        if self._table.place(name) is not None and self._look_up(name) is not _MISSING:
            self._finder.note(self.__name__, name, seam=False)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        if self._table.is_seam(name) and (place := self._table.place(name)) is not None:
            self._finder.restore_seam(place)
            return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        children = [one.rpartition(".")[2] for one in self._finder.children(self.__name__)]
        return sorted({*(name for name in vars(self) if not name.startswith("_")), *self._public(), *children})

    def _public(self) -> list[str]:
        """Every name that it has: those of the table and those of its home."""
        own = [name for name in vars(self) if not name.startswith("_")]
        home: list[str] = []
        if self._table.home:
            found = import_module(self._table.home)
            home = [name for name in dir(found) if not name.startswith("_") and name != "annotations"]
        return [name for name in dict.fromkeys([*self._table.names, *home, *own]) if name not in self._table.absent]


class _VirtualLoader(Loader):
    """Makes the virtual modules of one finder."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """A module for the table of that name."""
        return VirtualModule(spec.name, self._finder, self._finder.table(spec.name))

    def exec_module(self, module: ModuleType) -> None:
        """Nothing runs: names are looked up when they are asked for."""

    def get_source(self, fullname: str) -> str:
        """There is none. Raises ImportError, as Python's own loaders do."""
        raise ImportError(f"{fullname} is a table of names; it has no source.", name=fullname)


class Finder(MetaPathFinder):
    """Finds the modules of the tables, before anything else of those names.

    tables: by module name. base: the folder in which ComfyUI's files would lie, for `__file__`.
    host: what the homes work with (`limner.compat.host.Host`), None where there is no engine.
    """

    def __init__(self, tables: Mapping[str, Table], base: Path, host: Any = None) -> None:
        self.displaced: dict[str, ModuleType] = {}
        self._tables = dict(tables)
        self._packages = {
            name.rsplit(".", depth)[0] for name in self._tables for depth in range(1, name.count(".") + 1)
        }
        self._loader = _VirtualLoader(self)
        self._originals: dict[tuple[str, str], Any] = {}
        self._told: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self.elsewhere = Elsewhere(self)
        self.base = base
        self.host = host
        self.patches: list[Patch] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module of the tables; None for others."""
        del path, target
        if not self.knows(fullname) or self._gives_way(fullname):
            return None
        return ModuleSpec(fullname, self._loader, origin="limner.compat", is_package=fullname in self._packages)

    def _gives_way(self, name: str) -> bool:
        """Whether a real module of that name is used: where a table only says what a name belongs to.

        ComfyUI itself has not imported these when packs are; one that has a `main` of its own on the path gets it.
        """
        table = self._tables.get(name)
        if table is None or name in self._packages or "." in name or table.home or table.names or table.absent:
            return False
        return PathFinder.find_spec(name) is not None

    def knows(self, name: str) -> bool:
        """Whether there is a table of that name, or of one below it."""
        return name in self._tables or name in self._packages

    def table(self, name: str) -> Table:
        """The table of a module; an empty one for a package that is there for its children."""
        return self._tables.get(name, Table())

    def children(self, name: str) -> list[str]:
        """The modules directly below one."""
        depth = name.count(".") + 1
        return sorted(
            one for one in {*self._tables, *self._packages} if one.startswith(f"{name}.") and one.count(".") == depth
        )

    def names(self) -> list[str]:
        """Every module there is."""
        return sorted({*self._tables, *self._packages})

    def file_of(self, name: str) -> Path:
        """Where the file of a module would lie. Packs find the base folder with it."""
        parts = name.split(".")
        if name in self._packages:
            return self.base.joinpath(*parts, "__init__.py")
        return self.base.joinpath(*parts[:-1], f"{parts[-1]}.py")

    def set_seam(self, place: tuple[str, str], value: Any) -> None:
        """Put a pack's value where the core reads it, and remember what was there."""
        home = import_module(place[0])
        # What a home makes when it is asked for is not in it before: then there is nothing to put back.
        self._originals.setdefault(place, vars(home).get(place[1], _MISSING))
        setattr(home, place[1], value)

    def restore_seam(self, place: tuple[str, str]) -> None:
        """Put back what was there before packs assigned to it."""
        if place not in self._originals:
            return
        original, home = self._originals.pop(place), sys.modules[place[0]]
        if original is not _MISSING:
            setattr(home, place[1], original)
        elif place[1] in vars(home):
            delattr(home, place[1])

    def restore(self) -> None:
        """Put everything back."""
        for place in list(self._originals):
            self.restore_seam(place)

    def note(self, module: str, name: str, *, seam: bool) -> None:
        """Remember an assignment; one that has no effect in the core is told, once."""
        frame = sys._getframe(2)
        patch = Patch(module, name, frame.f_code.co_filename, frame.f_lineno, seam)
        with self._lock:
            first = (module, name) not in self._told
            self._told.add((module, name))
            self.patches.append(patch)
        if first and not seam:
            log.warning(
                "%s:%d replaces %s.%s. Packs see the replacement; Limner itself does not use that name.",
                patch.file,
                patch.line,
                module,
                name,
            )


def install(
    *, base: Path | None = None, host: Any = None, tables: Mapping[str, Table] | None = None, first: bool = True
) -> Finder:
    """Make ComfyUI's modules importable in this process, and return the finder that does.

    Real modules of these names give way: those that were imported already are put aside until `uninstall`.
    """
    finder = Finder(shipped() if tables is None else tables, Path.cwd() if base is None else base, host)
    finder.displaced = displace(finder)
    sys.meta_path.insert(0 if first else len(sys.meta_path), finder)
    return finder


def displace(finder: Finder) -> dict[str, ModuleType]:
    """Take the modules out of sys.modules that stand where the finder's belong."""
    mine = {name.partition(".")[0] for name in finder.names()}
    taken = [name for name in sys.modules if name.partition(".")[0] in mine]
    return {name: sys.modules.pop(name) for name in taken}


def uninstall(finder: Finder) -> None:
    """Undo `install`: seams get back what they held, and the virtual modules are forgotten."""
    if finder in sys.meta_path:
        sys.meta_path.remove(finder)
    finder.restore()
    displace(finder)
    sys.modules.update(finder.displaced)


@contextmanager
def installed(
    *, base: Path | None = None, host: Any = None, tables: Mapping[str, Table] | None = None
) -> Iterator[Finder]:
    """ComfyUI's modules within a `with` block."""
    finder = install(base=base, host=host, tables=tables)
    try:
        yield finder
    finally:
        uninstall(finder)


def current() -> Finder | None:
    """The finder that is installed in this process, or None."""
    return next((one for one in sys.meta_path if isinstance(one, Finder)), None)
