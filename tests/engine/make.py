"""Makers for tests of the engine: an engine of small nodes in a folder of its own, and the events it sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from limner.engine import Engine, NodeRegistry
from limner.engine.events import Event, ProgressState
from limner.graph import NodeSource, collect
from limner.settings import Settings
from limner.store import Store
from tests.engine import nodes
from tests.engine.classes import ClassSource


def call(kind: str, **inputs: Any) -> dict[str, Any]:
    """One node of an API prompt."""
    return {"class_type": kind, "inputs": inputs}


def say_and_show(text: str = "hi") -> dict[str, Any]:
    """Two nodes: a text and what shows it."""
    return {"1": call("Say", text=text), "2": call("Show", source=["1", 0])}


def trims(count: int, text: str = " x ") -> dict[str, Any]:
    """A chain of `count` text nodes that ends in one that shows."""
    chain = {"0": call("Trim", string=text, mode="Both")}
    chain |= {str(i): call("Trim", string=[str(i - 1), 0], mode="Both") for i in range(1, count)}
    return chain | {"end": call("Show", source=[str(count - 1), 0])}


class Bench:
    """An engine under test, with everything it sent."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.events: list[Event] = []
        engine.events.subscribe(self.events.append)

    async def run(self, prompt: Mapping[str, Any], **body: Any) -> dict[str, Any]:
        """Run a prompt to its end; its history entry."""
        nodes.calls.clear()
        self.events.clear()
        accepted = await self.engine.submit({"prompt": prompt, "client_id": "me", **body})
        entry = await self.engine.wait(accepted.prompt_id)
        await asyncio.sleep(0)  # events already handed over are delivered
        assert entry is not None
        return entry

    def types(self) -> list[str]:
        """The kinds of events sent, progress states left out."""
        return [event.type for event in self.events if not isinstance(event, ProgressState)]

    def data(self, kind: str) -> list[dict[str, Any]]:
        """The data of all events of a kind."""
        return [event.data() for event in self.events if event.type == kind]

    async def until(self, kind: str, count: int = 1) -> None:
        """Wait until so many events of a kind were sent."""
        for _ in range(10_000):
            if sum(event.type == kind for event in self.events) >= count:
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"no {kind} event")


class FakeMemory:
    """A memory manager that has nothing, and keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.relief: list[Callable[[int], int]] = []

    def add_relief(self, function: Callable[[int], int]) -> None:
        self.relief.append(function)

    def unload_all(self) -> None:
        self.calls.append("unload_all")

    def trim(self) -> None:
        self.calls.append("trim")

    def held(self) -> list[Any]:
        return []


def registry() -> NodeRegistry:
    """The small nodes."""
    return NodeRegistry(collect(nodes))


@asynccontextmanager
async def bench(
    folder: Path,
    *classes: type,
    started: bool = True,
    source: NodeSource | None = None,
    memory: Any = None,
    **settings: Any,
) -> AsyncIterator[Bench]:
    """A running engine in a folder; its store is closed at the end. classes: kinds of a pack, by their names.

    memory: the memory manager.
    """
    chosen = Settings(base_directory=str(folder), **settings)
    store = Store.open(chosen)
    kinds = registry()
    if classes:
        kinds.add_source(ClassSource({one.__name__: one for one in classes}))
    if source is not None:
        kinds.add_source(source)
    engine = Engine(chosen, store, kinds, memory=None if memory is None else lambda: memory)
    found = Bench(engine)
    if started:
        await engine.start()
    try:
        yield found
    finally:
        if started:
            await engine.close()
        store.close()
