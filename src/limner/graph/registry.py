"""Which node kinds there are: the lookup that prompts are validated against, and a plain one held in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

from limner.graph.node import NodeFunction
from limner.graph.schema import Port, Schema


class Registry(Protocol):
    """Schemas by kind."""

    def get(self, kind: str) -> Schema | None:
        """The schema of a kind, or None."""

    def kinds(self) -> list[str]:
        """Every kind, in the order in which they are shown."""


class FileLookup(Protocol):
    """Which files a port offers. Made anew for each question, so it may remember what it has listed."""

    def choices(self, port: Port) -> Sequence[str]:
        """The names offered."""

    def accepts(self, port: Port, value: Any) -> bool:
        """Whether the name is one of them, or a file that may be named all the same."""


class NoFiles:
    """A lookup that finds nothing: for graphs apart from any folder."""

    def choices(self, port: Port) -> Sequence[str]:
        """The names that come without files."""
        return port.also

    def accepts(self, port: Port, value: Any) -> bool:
        """Whether it is one of these."""
        return value in port.also


class SchemaTable:
    """A registry in memory. The first schema of a kind wins."""

    def __init__(self, schemas: Iterable[Schema] = ()) -> None:
        self._schemas: dict[str, Schema] = {}
        self.add(*schemas)

    def add(self, *schemas: Schema) -> None:
        """Take more kinds in."""
        for schema in schemas:
            self._schemas.setdefault(schema.kind, schema)

    def get(self, kind: str) -> Schema | None:
        """The schema of a kind, or None."""
        return self._schemas.get(kind)

    def kinds(self) -> list[str]:
        """Every kind, in the order in which they came."""
        return list(self._schemas)


def collect(module: ModuleType | Mapping[str, Any]) -> list[Schema]:
    """The schemas of the node functions that a module defines, in the order of their definition."""
    names = vars(module) if isinstance(module, ModuleType) else module
    home = names.get("__name__")
    nodes = {id(v): v for v in names.values() if isinstance(v, NodeFunction) and v.function.__module__ == home}
    return [one.schema for one in nodes.values()]
