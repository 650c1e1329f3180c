"""Makers for tests of queue and jobs: an engine whose nodes are small or stubborn, and the events it sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType
from aiohttp.test_utils import TestClient, TestServer

from limner.engine import Engine, NodeRegistry
from limner.graph import collect
from limner.server import make_app
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


BAD = {"1": call("Fail", message="no"), "2": call("Show", source=["1", 0])}
"""A prompt whose node fails."""


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


@dataclass
class Served:
    """A server over a real engine, and a client of it."""

    client: TestClient[Any, Any]
    bench: Bench

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Status and body: parsed where it is JSON, else text."""
        async with self.client.request(method, path, **options) as response:
            text = await response.text()
            return response.status, json.loads(text) if response.content_type == "application/json" else text

    async def get(self, path: str) -> tuple[int, Any]:
        return await self.ask("GET", path)

    async def post(self, path: str, body: Any = None) -> tuple[int, Any]:
        return await self.ask("POST", path, json={} if body is None else body)

    async def queue(self, prompt: dict[str, Any], name: str, **more: Any) -> dict[str, Any]:
        """Post a prompt of that id."""
        status, answer = await self.post("/prompt", {"prompt": prompt, "prompt_id": name, **more})
        assert status == 200, answer
        return answer


@asynccontextmanager
async def served(folder: Path, *, started: bool = True, **settings: Any) -> AsyncIterator[Served]:
    """A server whose engine runs, or not."""
    async with bench(folder, started=started, **settings) as b:
        engine = b.engine
        if not started:
            engine.events.attach(asyncio.get_running_loop())
        app = make_app(engine.settings, engine, engine.store)
        async with TestClient(TestServer(app)) as client:
            yield Served(client, b)


async def heard(socket: Any) -> Any:
    """The next message: parsed text, or bytes."""
    message = await socket.receive(timeout=5)
    return json.loads(message.data) if message.type is WSMsgType.TEXT else message.data


async def heard_until(socket: Any, kind: str) -> list[Any]:
    """Every message up to the first of a kind."""
    found = []
    while not found or found[-1]["type"] != kind:
        message = await heard(socket)
        if isinstance(message, dict):
            found.append(message)
    return found
