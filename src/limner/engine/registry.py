"""The built-in nodes' schemas, from the description cache that ships with them: no node module is imported for them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from limner.graph import Schema, collect

log = logging.getLogger(__name__)

CACHE_FILE = "descriptions.json"
NOT_TOPICS = ("__init__.py", "describe.py")


class NodeRegistry:
    """Schemas by kind. The first of a kind wins; later ones are reported and left out."""

    def __init__(self, schemas: Iterable[Schema] = ()) -> None:
        self._plain: dict[str, dict[str, Any]] = {}
        self._schemas: dict[str, Schema] = {}
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

    def get(self, kind: str) -> Schema | None:
        """The schema of a kind, or None."""
        schema = self._schemas.get(kind)
        if schema is None and kind in self._plain:
            schema = self._schemas[kind] = Schema.from_json(self._plain[kind])
        return schema

    def kinds(self) -> list[str]:
        """Every kind."""
        return list(self._plain | dict.fromkeys(self._schemas))

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
