"""Makers for tests of V3 classes: a source of them, a node in one line, and a run that keeps what it is told."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from limner.compat.sources.v3 import V3Class
from limner.compat.v3 import io
from limner.graph import CURRENT_RUN, Run
from limner.settings import Settings
from limner.store import Store


class V3Source:
    """A NodeSource of V3 classes."""

    def __init__(self, *classes: type[io.ComfyNode]) -> None:
        self.classes = {one.kind: one for one in map(V3Class, classes)}

    def kinds(self):
        return list(self.classes)

    def overrides(self, kind):
        return False

    def schema(self, kind):
        return self.classes[kind].schema() if kind in self.classes else None

    def describe(self, kind):
        return self.classes[kind].describe() if kind in self.classes else None

    def make(self, kind):
        return self.classes[kind].make()

    def function(self, kind, instance):
        return self.classes[kind].function(instance)

    def companion(self, kind, name, instance):
        return self.classes[kind].companion(name, instance)


def node(
    kind: str,
    execute: Callable[..., Any],
    inputs: list[io.Input] | None = None,
    outputs: list[io.Output] | None = None,
    methods: dict[str, Callable[..., Any]] | None = None,
    **schema: Any,
) -> type[io.ComfyNode]:
    """A V3 class. execute and the other methods get the class first."""

    def define_schema(cls: Any) -> io.Schema:
        return io.Schema(node_id=kind, inputs=inputs, outputs=outputs, **schema)

    own = {"define_schema": define_schema, "execute": execute, **(methods or {})}
    return type(kind, (io.ComfyNode,), {name: classmethod(method) for name, method in own.items()})


class Sink:
    """Keeps the progress that it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float, float, Any]] = []

    def progress(self, node_id: str, value: float, total: float, preview: Any | None = None) -> None:
        self.told.append((node_id, value, total, preview))

    def check(self) -> None:
        pass


@contextmanager
def running(folder: Path, **settings: Any):
    """A run whose files lie below a folder."""
    chosen = Settings(base_directory=str(folder), **settings)
    store = Store.open(chosen)
    run = Run("p", "7", chosen, store, None, Sink())
    token = CURRENT_RUN.set(run)
    try:
        yield run
    finally:
        CURRENT_RUN.reset(token)
        store.close()
