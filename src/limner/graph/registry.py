"""Which node kinds there are: the lookup that prompts are validated against, and a plain one held in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

from limner.graph.node import NodeFunction
from limner.graph.schema import Port, Schema
from limner.graph.source import NodeSource


class Registry(Protocol):
    """Schemas by kind."""

    def get(self, kind: str) -> Schema | None:
        """The schema of a kind, or None."""

    def kinds(self) -> list[str]:
        """Every kind, in the order in which they are shown."""

    def __contains__(self, kind: object) -> bool:
        """Whether there is such a kind. Asks no class for its inputs, as `get` may."""

    def source(self, kind: str) -> NodeSource | None:
        """Where a kind that is a class of a pack comes from; None for a built-in one."""


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

    def __contains__(self, kind: object) -> bool:
        """Whether there is such a kind."""
        return kind in self._schemas

    def source(self, kind: str) -> NodeSource | None:  # noqa: ARG002 - they are all built in
        """None."""
        return None


class Snapshot:
    """A registry as it is during one request or run: each kind is asked for its schema once.

    A class of a pack may say other inputs at each call, and may fail at it: `get` then gives None, and `failure` what
    it raised.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._schemas: dict[str, Schema | None] = {}
        self._failures: dict[str, Exception] = {}

    def get(self, kind: str) -> Schema | None:
        """The schema of a kind, or None."""
        if kind in self._schemas:
            return self._schemas[kind]
        try:
            schema = self._registry.get(kind)
        except Exception as error:
            self._failures[kind] = error
            schema = None
        self._schemas[kind] = schema
        return schema

    def failure(self, kind: str) -> Exception | None:
        """What the class of that kind raised when it was asked for its inputs, or None."""
        return self._failures.get(kind)

    def kinds(self) -> list[str]:
        """Every kind."""
        return self._registry.kinds()

    def __contains__(self, kind: object) -> bool:
        return kind in self._registry

    def source(self, kind: str) -> NodeSource | None:
        """Where a kind that is a class of a pack comes from; None for a built-in one."""
        return self._registry.source(kind)


def collect(module: ModuleType | Mapping[str, Any]) -> list[Schema]:
    """The schemas of the node functions that a module defines, in the order of their definition."""
    names = vars(module) if isinstance(module, ModuleType) else module
    home = names.get("__name__")
    nodes = {id(v): v for v in names.values() if isinstance(v, NodeFunction) and v.function.__module__ == home}
    return [one.schema for one in nodes.values()]
