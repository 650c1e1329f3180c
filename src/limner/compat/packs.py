"""Node packs: found, imported, reported, and shown to the engine as a `NodeSource`. One that breaks stops no other."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from limner.compat.builtin import fill_tables, is_live
from limner.compat.cacheable import why_not
from limner.compat.description_cache import Described, DescriptionCache
from limner.compat.discovery import Pack, discover
from limner.compat.finder import current as current_finder
from limner.compat.host import Host
from limner.compat.preload import preload
from limner.compat.report import PackReport, Problem, explain
from limner.compat.sources.v1 import V1Class
from limner.errors import LimnerError
from limner.graph import Schema
from limner.graph.source import CompanionName

log = logging.getLogger(__name__)

LACKING = "Skip {} module for custom nodes due to the lack of NODE_CLASS_MAPPINGS or NODES_LIST (need one)."


def adapter_for(cls: Any, kind: str, title: str = "") -> Any:
    """What asks a class for its schema and calls it: V3 for subclasses of `ComfyNode`, else V1."""
    from limner.compat.sources import v3  # noqa: PLC0415 - imported with the first class of a pack

    return v3.V3Class(cls, kind) if v3.is_v3(cls) else V1Class(cls, kind, title)


class DescribedClass:
    """A class of a pack that has not been imported: its description is known, the rest comes with the import."""

    def __init__(self, pack: Pack, kind: str, described: Described, load: Callable[[], Any]) -> None:
        self.pack = pack
        self.kind = kind
        self.described = described
        self.load = load


class ClassTable(dict[str, Any]):
    """NODE_CLASS_MAPPINGS. A class whose pack is only described is imported when it is looked at."""

    def __getitem__(self, kind: str) -> Any:
        found = super().__getitem__(kind)
        return found.load() if isinstance(found, DescribedClass) else found

    def get(self, kind: str, default: Any = None) -> Any:
        """The class, or the default."""
        return self[kind] if kind in self else default  # noqa: SIM401 - `get` is what this is

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()  # `dict(table)` would take values past `__getitem__` without this

    def peek(self, kind: str) -> Any:
        """What there is without importing it, or None."""
        return super().get(kind)

    def values(self) -> Any:
        """Every class."""
        return [self[kind] for kind in self]

    def items(self) -> Any:
        """Every kind with its class."""
        return [(kind, self[kind]) for kind in self]

    def copy(self) -> dict[str, Any]:
        """A plain dict of every class."""
        return dict(self.items())


class _Kinds(Sequence[str]):
    """The kinds of a source as they are now; whether one is among them is told without listing them."""

    def __init__(self, source: PackSource) -> None:
        self._source = source

    def __contains__(self, kind: object) -> bool:
        return isinstance(kind, str) and self._source.is_foreign(kind)

    def __iter__(self) -> Iterator[str]:
        return (kind for kind in list(self._source.table) if self._source.is_foreign(kind))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]


class PackSource:
    """The kinds of all packs, and of built-in classes that packs have replaced or patched."""

    def __init__(self, host: Host) -> None:
        self._host = host
        host.tables.classes = ClassTable(host.tables.classes)
        self._adapters: dict[str, tuple[Any, Any]] = {}

    @property
    def table(self) -> ClassTable:
        """NODE_CLASS_MAPPINGS."""
        found = self._host.tables.classes
        return found if isinstance(found, ClassTable) else ClassTable(found)

    def kinds(self) -> Sequence[str]:
        """Every kind that is not Limner's own as it was."""
        return _Kinds(self)

    def is_foreign(self, kind: str) -> bool:
        """Whether the kind is a pack's."""
        found = self.table.peek(kind)
        if found is None:
            return False
        if found is not self._host.tables.builtins.get(kind):
            return True
        return bool(vars(found).get("patched")) or is_live(kind, self._host)

    def overrides(self, kind: str) -> bool:
        """Whether a pack has replaced or patched the built-in class of that name."""
        return kind in self._host.tables.builtins and self.is_foreign(kind)

    def schema(self, kind: str) -> Schema | None:
        """The schema as it is now, or None. Raises what the class raises when it is asked for its inputs."""
        found = self._foreign(kind)
        if isinstance(found, DescribedClass):
            return found.described.schema
        return None if found is None else self._adapter(kind, found).schema()

    def describe(self, kind: str) -> dict[str, Any] | None:
        """The entry of `/object_info`, or None. Raises what the class raises."""
        found = self._foreign(kind)
        if isinstance(found, DescribedClass):
            return dict(found.described.entry)
        return None if found is None else self._adapter(kind, found).describe()

    def make(self, kind: str) -> Any:
        """A new instance."""
        return self._real(kind).make()

    def function(self, kind: str, instance: Any) -> Callable[..., Any]:
        """What one mapped call calls."""
        found: Callable[..., Any] = self._real(kind).function(instance)
        return found

    def companion(self, kind: str, name: CompanionName, instance: Any | None) -> Callable[..., Any] | None:
        """The companion, or None."""
        found: Callable[..., Any] | None = self._real(kind).companion(name, instance)
        return found

    def _foreign(self, kind: str) -> Any:
        return self.table.peek(kind) if self.is_foreign(kind) else None

    def _real(self, kind: str) -> Any:
        if not self.is_foreign(kind):
            raise LimnerError(f"There is no node {kind}.", do="Install the pack it comes from, or replace it.")
        return self._adapter(kind, self.table[kind])

    def _adapter(self, kind: str, cls: Any) -> Any:
        title = self._host.tables.titles.get(kind, "")
        known = self._adapters.get(kind)
        if known is None or known[0] is not cls:
            known = self._adapters[kind] = cls, adapter_for(cls, kind, title)
        if isinstance(known[1], V1Class):
            known[1].title = title
        return known[1]


class Packs:
    """Loads packs into a host's tables.

    `load` is to be called once, off the event loop; `ready` is set when it is over. reports: one a pack, in order.
    cache: descriptions of earlier starts, None to import everything.
    """

    def __init__(self, host: Host, cache: DescriptionCache | None = None) -> None:
        self.host = host
        self.source = PackSource(host)
        self.reports: list[PackReport] = []
        self.collisions: list[dict[str, str]] = []
        self.started = threading.Event()
        self.ready = threading.Event()
        self._cache = cache
        self._lock = threading.RLock()
        self._found: list[Pack] = []
        self._owners: dict[str, str] = {}
        self._loaded: set[Path] = set()
        self._paths: list[str] = []
        self._loop = asyncio.new_event_loop()

    def find(self) -> list[Pack]:
        """The packs that the settings allow."""
        settings = self.host.settings
        roots = self.host.store.folders.roots("custom_nodes")
        return list(
            discover(roots, disabled=settings.disable_all_custom_nodes, allowed=settings.whitelist_custom_nodes)
        )

    def load(self) -> None:
        """Run the prestartup scripts, then load every pack. Raises nothing a pack does."""
        try:
            self._found = self.find()
            if self._found:
                self._prepare()
            times = {pack.path: self._prestart(pack) for pack in self._found if pack.prestartup is not None}
            self.started.set()
            if self._found:
                fill_tables(self.host)
                self._loop.run_until_complete(self._load_all(times))
            self._tell()
            if self._cache is not None:
                self._cache.save()
        except Exception:  # a defect of ours must not keep everyone waiting
            log.exception("Node packs could not be loaded.")
        finally:
            self.started.set()
            self.ready.set()

    def _prepare(self) -> None:
        """Make what packs take for granted: the folders are there, and ComfyUI's base folder is on Python's path.

        With the latter `import custom_nodes.NAME` works.
        """
        self.host.store.files.make()
        for root in self.host.store.folders.roots("custom_nodes"):
            parent = str(root.parent)
            if root.name == "custom_nodes" and parent not in sys.path:
                sys.path.append(parent)
                self._paths.append(parent)

    async def _load_all(self, times: Mapping[Path, tuple[float, Problem | None]]) -> None:
        for pack in self._found:
            report = await self._load_one(pack)
            report.prestartup_seconds, problem = times.get(pack.path, (0.0, None))
            if problem is not None:
                report.problems.insert(0, problem)

    def linger(self) -> None:
        """Go on with what packs began on the event loop on which they were imported, until it is over."""
        left = asyncio.all_tasks(self._loop)
        if left:
            self._loop.run_until_complete(asyncio.wait(left))

    def close(self) -> None:
        """Take back what packs needed in the process."""
        for path in self._paths:
            if path in sys.path:
                sys.path.remove(path)
        if not self._loop.is_running():
            self._loop.close()

    def _prestart(self, pack: Pack) -> tuple[float, Problem | None]:
        script = pack.prestartup
        begin = time.monotonic()
        problem = None
        try:
            _execute(f"{pack.module}.prestartup_script", script or pack.entry)
        except BaseException as error:  # sys.exit too
            problem = explain(error, pack, current_finder())
            problem.what = f"the prestartup script failed: {problem.what}"
            log.exception("%s: its prestartup script failed.", pack.name)
        return time.monotonic() - begin, problem

    def load_pack(self, pack: Pack) -> PackReport:
        """Load one more pack, off the event loop."""
        return asyncio.run(self._load_one(pack))

    async def _load_one(self, pack: Pack) -> PackReport:
        """Load one pack: from its description if it is unchanged and that is safe, else by importing it.

        On a running event loop, as ComfyUI does: packs begin tasks when they are imported.
        """
        with self._lock:
            report = PackReport(pack.name, str(pack.path), about=pack.about())
            self.reports.append(report)
            known = self._cache.get(pack) if self._cache is not None else None
            if known is None and not self._loaded:
                preload()  # before the clock: it is not the pack's time
            begin = time.monotonic()
            if known is not None:
                report.state = "cached"
                self._register_described(pack, known, report)
            else:
                await self._import(pack, report)
            report.seconds = time.monotonic() - begin
            return report

    # Importing

    async def _import(self, pack: Pack, report: PackReport) -> ModuleType | None:
        finder = current_finder()
        patches_before = len(finder.patches) if finder is not None else 0
        self._loaded.add(pack.path)
        try:
            module = _execute(pack.module, pack.entry, pack.path if pack.is_folder else None)
            classes = await self._classes_of(module, pack, report)
        except BaseException as error:  # a pack may call sys.exit; it stops no other
            report.state = "failed"
            report.problems.append(explain(error, pack, finder))
            log.warning("Cannot import %s: %s", pack.path, report.problems[-1].text(), exc_info=error)
            sys.modules.pop(pack.module, None)
            return None
        if finder is not None:
            report.patches = [
                {"name": f"{one.module}.{one.name}", "file": one.file, "line": one.line, "effective": one.seam}
                for one in finder.patches[patches_before:]
            ]
        if classes is None:
            report.state = "skipped"
            report.problems.append(Problem(LACKING.format(pack.path)))
        elif report.state != "cached":
            self._register(pack, classes, report)
            self._describe(pack, classes, report)
        return module

    async def _classes_of(self, module: ModuleType, pack: Pack, report: PackReport) -> dict[str, Any] | None:
        """The classes of an imported pack by kind, None when it declares none."""
        tables = self.host.tables
        tables.modules[pack.name] = str(pack.folder)
        self._add_web(pack, getattr(module, "WEB_DIRECTORY", None), report)
        mappings = getattr(module, "NODE_CLASS_MAPPINGS", None)
        if mappings is not None:
            titles = getattr(module, "NODE_DISPLAY_NAME_MAPPINGS", None)
            if isinstance(titles, Mapping):
                tables.titles.update({kind: title for kind, title in titles.items() if isinstance(title, str)})
            return {str(kind): cls for kind, cls in dict(mappings).items()}
        if hasattr(module, "comfy_entrypoint"):
            from limner.compat.sources import v3  # noqa: PLC0415 - imported with the first extension

            found: dict[str, Any] = {}
            for cls in await v3.extension_classes(module):
                kind = v3.kind_of(cls)
                found[kind] = cls
                if title := v3.title_of(cls):
                    tables.titles[kind] = title
            return found
        return None

    def _add_web(self, pack: Pack, declared: Any, report: PackReport) -> None:
        """Register the folders of scripts that the pack's module and its project file declare."""
        places: list[tuple[str, Path]] = []
        if (own := pack.project_web()) is not None:
            places.append(own)
        if isinstance(declared, str) and declared:
            places.append((pack.name, pack.folder / declared))
        for name, folder in places:
            if folder.is_dir():
                self.host.tables.web[name] = str(folder.resolve())
                report.web.append(name)
            else:
                report.problems.append(Problem(f"the folder of scripts {folder} is not there."))

    def _register(self, pack: Pack, classes: Mapping[str, Any], report: PackReport) -> None:
        tables = self.host.tables
        for kind, cls in classes.items():
            if not self._claim(pack, kind, cls, report):
                continue
            try:
                cls.RELATIVE_PYTHON_MODULE = f"custom_nodes.{pack.name}"
            except (AttributeError, TypeError) as error:
                log.debug("%s: %s cannot be marked: %s", pack.name, kind, error)
            tables.classes[kind] = cls
            report.kinds.append(kind)

    def _claim(self, pack: Pack, kind: str, cls: Any, report: PackReport) -> bool:
        """Whether the pack may have the kind: built-in nodes keep theirs, and so does the pack that came first."""
        table = self.source.table
        there = table.peek(kind)
        if there is None or there is cls:
            self._owners[kind] = str(pack.path)
            return True
        owner = self._owners.get(kind, "Limner itself")
        self.collisions.append({"kind": kind, "kept": owner, "left_out": str(pack.path)})
        report.problems.append(Problem(f"its node {kind} is left out: {owner} has one of that name."))
        log.warning("%s: its node %s is left out: %s has one of that name.", pack.name, kind, owner)
        return False

    # Descriptions

    def _describe(self, pack: Pack, classes: Mapping[str, Any], report: PackReport) -> None:
        """Ask every class once: what fails is told, and if importing the pack does nothing else, all is kept."""
        described: dict[str, Described] = {}
        for kind in report.kinds:
            try:
                adapter = adapter_for(classes[kind], kind, self.host.tables.titles.get(kind, ""))
                described[kind] = Described(adapter.schema(), adapter.describe())
            except Exception as error:  # noqa: PERF203 - one class that raises leaves the others
                problem = explain(error, pack, current_finder())
                problem.what = f"the node {kind} cannot be described and is left out: {problem.what}"
                report.problems.append(problem)
                log.warning("%s: %s", pack.name, problem.text())
        if self._cache is None:
            return
        report.cacheable = "" if not report.patches else "it replaces names of ComfyUI's modules"
        report.cacheable = report.cacheable or why_not(pack)
        if not report.cacheable and len(described) == len(classes) and not report.problems:
            titles = {kind: self.host.tables.titles[kind] for kind in described if kind in self.host.tables.titles}
            web = {name: self.host.tables.web[name] for name in report.web}
            self._cache.put(pack, described, titles, web)

    def _register_described(self, pack: Pack, known: Any, report: PackReport) -> None:
        tables = self.host.tables
        tables.modules[pack.name] = str(pack.folder)
        tables.web.update(known.web)
        tables.titles.update(known.titles)
        report.web = list(known.web)
        for kind, described in known.kinds.items():
            stand_in = DescribedClass(pack, kind, described, partial(self._first_use, pack, kind, report))
            if self._claim(pack, kind, stand_in, report):
                tables.classes[kind] = stand_in
                report.kinds.append(kind)

    def _first_use(self, pack: Pack, kind: str, report: PackReport) -> Any:
        """Import a pack that was only described, and give the class of one of its kinds."""
        with self._lock:
            table = self.source.table
            if pack.path not in self._loaded:
                module = _at_once(self._import(pack, report))
                if module is None:
                    raise LimnerError(f"{pack.name} cannot be imported: {report.problems[-1].text()}")
                report.state = "loaded"
                for name, cls in dict(module.NODE_CLASS_MAPPINGS).items():
                    if isinstance(table.peek(name), DescribedClass) and table.peek(name).pack == pack:
                        cls.RELATIVE_PYTHON_MODULE = f"custom_nodes.{pack.name}"
                        dict.__setitem__(table, name, cls)
            found = table.peek(kind)
            if isinstance(found, DescribedClass):
                raise LimnerError(f"{pack.name} no longer has the node {kind}.", do="Restart Limner.")
            return found

    # Telling

    def _tell(self) -> None:
        if not self.reports:
            return
        log.info("Node packs:")
        for one in sorted(self.reports, key=lambda report: report.seconds):
            note = {"failed": " (IMPORT FAILED)", "cached": " (described, imported when used)"}.get(one.state, "")
            log.info("%8.1f seconds%s: %s, %d nodes", one.seconds, note, one.path, len(one.kinds))

    def to_json(self) -> dict[str, Any]:
        """The body of `GET /api/packs`."""
        return {
            "ready": self.ready.is_set(),
            "packs": [report.to_json() for report in list(self.reports)],
            "collisions": list(self.collisions),
        }


def _at_once(work: Coroutine[Any, Any, ModuleType | None]) -> ModuleType | None:
    """The result of a coroutine that waits for nothing: packs that are described have no extension to ask."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # a StopIteration knows no type
    raise LimnerError("A pack that was described waits for something while it is imported.", do="Restart Limner.")


def _execute(name: str, file: Path, package: Path | None = None) -> ModuleType:
    """Import a file under a name of its own. Raises what the file raises."""
    where = [str(package)] if package is not None else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=where)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
