"""Makers for tests of queue and jobs: an engine whose nodes are small or stubborn, and the events it sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from limner.engine import Engine, NodeRegistry
from limner.graph import collect
from limner.settings import Settings
from limner.store import Store
from tests.contract.jobs import stubborn
from tests.engine import nodes
from tests.engine.make import Bench, call


@asynccontextmanager
async def bench(folder: Path, *, started: bool = True, **settings: Any) -> AsyncIterator[Bench]:
    """A running engine in a folder; closed at the end."""
    for event in stubborn.WORDS.values():
        event.clear()
    chosen = Settings(base_directory=str(folder), **settings)
    store = Store.open(chosen)
    engine = Engine(chosen, store, NodeRegistry([*collect(nodes), *collect(stubborn)]))
    found = Bench(engine)
    if started:
        await engine.start()
    try:
        yield found
    finally:
        stubborn.WORDS["deaf"].set()
        if started:
            await engine.close()
        store.close()


def only(kind: str, **inputs: Any) -> dict[str, Any]:
    """A prompt of one node."""
    return {"1": call(kind, **inputs)}


def shown(kind: str, **inputs: Any) -> dict[str, Any]:
    """A prompt of one node and what shows its result."""
    return {"1": call(kind, **inputs), "2": call("Show", source=["1", 0])}


async def submit(bench: Bench, prompt: dict[str, Any], name: str, **more: Any) -> None:
    """Put a prompt of that id in."""
    await bench.engine.submit({"prompt": prompt, "prompt_id": name, "client_id": "me", **more})


async def until(fact: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until a fact holds."""
    async with asyncio.timeout(seconds) if hasattr(asyncio, "timeout") else _forever():
        while not fact():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def _forever() -> AsyncIterator[None]:
    yield


def waiting(bench: Bench) -> list[str]:
    """Ids of what waits, next first."""
    return [job.prompt_id for job in bench.engine.queue.pending_jobs()]


def status(bench: Bench, name: str) -> str | None:
    """The status of a job, None when there is none."""
    job = bench.engine.jobs.get(name)
    return None if job is None else job["status"]
