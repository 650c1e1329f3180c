"""Which nodes there are: the built-in ones, from the description cache that ships with them, and those of packs."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from limner.graph import FileLookup, NodeSource, Schema, collect, describe

log = logging.getLogger(__name__)

CACHE_FILE = "descriptions.json"
NOT_TOPICS = ("__init__.py", "describe.py")


class NodeRegistry:
    """Schemas by kind. Of two built-in ones the first wins, and the later is reported and left out.

    Built-in nodes come first, then those of sources; a source's class that overrides a built-in node goes before it.
    """

    def __init__(self, schemas: Iterable[Schema] = ()) -> None:
        self._plain: dict[str, dict[str, Any]] = {}
        self._schemas: dict[str, Schema] = {}
        self._sources: tuple[NodeSource, ...] = ()
        self._versions: dict[str, bytes | None] = {}
        for schema in schemas:
            self.add(schema)

    @classmethod
    def open(cls, folder: Path | None = None, package: str = "limner.nodes") -> NodeRegistry:
        """The registry of a folder of node modules.

        A module whose source is not the one that was described is imported and read; so is one that is not described.
        """
        folder = Path(__file__).parents[1] / "nodes" if folder is None else folder
        registry = cls()
        described = read_cache(folder / CACHE_FILE)
        for source in topics(folder):
            entry = described.get(source.name)
            if entry is not None and entry.get("hash") == source_hash(source):
                for plain in entry["schemas"]:
                    registry._plain.setdefault(plain["kind"], plain)
                continue
            log.info("%s is not described; it is imported. `python -m %s.describe` describes it.", source.name, package)
            registry._import(f"{package}.{source.stem}")
        return registry

    def _import(self, module: str) -> None:
        try:
            found = collect(import_module(module))
        except Exception:  # one broken topic must not take the others with it
            log.exception("%s cannot be imported; its nodes are missing.", module)
            return
        for schema in found:
            self.add(schema)

    def add(self, schema: Schema) -> bool:
        """Take a kind in. Returns False, and says so, when there is one of that name."""
        if schema.kind in self._schemas or schema.kind in self._plain:
            log.warning("%s from %s is left out: there is a node of that name.", schema.kind, schema.home)
            return False
        self._schemas[schema.kind] = schema
        return True

    def add_source(self, source: NodeSource) -> None:
        """Take the kinds of a source in, as they are whenever they are asked for. Any thread."""
        self._sources = (*self._sources, source)

    def source(self, kind: str) -> NodeSource | None:
        """The source that a kind comes from; None for a built-in one and one that is not there."""
        built_in = kind in self._schemas or kind in self._plain
        for one in self._sources:
            if one.overrides(kind) or (not built_in and kind in one.kinds()):
                return one
        return None

    def get(self, kind: str) -> Schema | None:
        """The schema of a kind, or None. A source is asked anew each time; raises what its class raises."""
        source = self.source(kind) if self._sources else None
        if source is not None:
            return source.schema(kind)
        schema = self._schemas.get(kind)
        if schema is None and kind in self._plain:
            schema = self._schemas[kind] = Schema.from_json(self._plain[kind])
        return schema

    def version(self, kind: str) -> bytes | None:
        """What the code of a kind is known by: a hash of its file, or what its source says; None where nobody can."""
        source = self.source(kind)
        if source is not None:
            says = getattr(source, "version", None)
            said = says(kind) if callable(says) else None
            return said.encode() if isinstance(said, str) else said
        schema = self.get(kind)
        module = "" if schema is None else schema.home.partition(":")[0]
        if module not in self._versions:
            spec = find_spec(module) if module else None
            origin = None if spec is None else spec.origin
            self._versions[module] = None if origin is None else source_hash(Path(origin)).encode()
        return self._versions[module]

    def describe(self, kind: str, files: FileLookup) -> dict[str, Any] | None:
        """The entry of `/object_info`, or None. Raises what a pack's class raises."""
        source = self.source(kind) if self._sources else None
        if source is not None:
            return source.describe(kind)
        schema = self.get(kind)
        return None if schema is None else describe(schema, files)

    def __contains__(self, kind: object) -> bool:
        if kind in self._schemas or kind in self._plain:
            return True
        return isinstance(kind, str) and bool(self._sources) and self.source(kind) is not None

    def kinds(self) -> list[str]:
        """Every kind, built-in ones first."""
        names = self._plain | dict.fromkeys(self._schemas)
        for source in self._sources:
            names |= dict.fromkeys(source.kinds())
        return list(names)

    def homes(self) -> list[str]:
        """The modules that the kinds come from."""
        homes = [plain["home"] for plain in self._plain.values()] + [one.home for one in self._schemas.values()]
        return list(dict.fromkeys(home.partition(":")[0] for home in homes))


def topics(folder: Path) -> list[Path]:
    """The node modules of a folder."""
    return sorted(path for path in folder.glob("*.py") if path.name not in NOT_TOPICS and not path.name.startswith("_"))


def source_hash(path: Path) -> str:
    """The sha256 of a source file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_cache(path: Path) -> dict[str, Any]:
    """The description cache, or {} where there is none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
