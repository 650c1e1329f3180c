"""Makers for the server's tests: a server over a real store and an engine that runs nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiohttp import ClientWebSocketResponse, WSMsgType
from aiohttp.test_utils import TestClient, TestServer

from limner.engine import PromptRejected
from limner.engine.events import Event, Executing
from limner.server import HUB, LogRing, make_app
from limner.settings import Settings
from limner.store import Store

PROMPT = {"1": {"class_type": "PreviewAny", "inputs": {"source": "x"}}}


@dataclass(frozen=True)
class Taken:
    prompt_id: str
    number: float
    node_errors: dict[str, Any]


class Events:
    def __init__(self) -> None:
        self.callbacks: list[Callable[[Event], None]] = []

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)

    def tell(self, *events: Event) -> None:
        for event in events:
            for callback in self.callbacks:
                callback(event)


@dataclass
class Queue:
    waiting: list[list[Any]] = field(default_factory=list)
    now: list[list[Any]] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)

    def running(self, owner: str | None = None) -> list[list[Any]]:
        return self.now

    def pending(self, owner: str | None = None) -> list[list[Any]]:
        return self.waiting

    def remaining(self, owner: str | None = None) -> int:
        return len(self.now) + len(self.waiting)

    def delete(self, ids: list[str], owner: str | None = None) -> None:
        self.calls.append(("delete", list(ids)))

    def clear(self, owner: str | None = None) -> None:
        self.calls.append("clear")


@dataclass
class History:
    entries: dict[str, Any] = field(default_factory=dict)
    calls: list[Any] = field(default_factory=list)

    def list(self, max_items: int | None = None, offset: int = -1, owner: str | None = None) -> dict[str, Any]:
        self.calls.append(("list", max_items, offset))
        return self.entries

    def list_text(self, max_items: int | None = None, offset: int = -1, owner: str | None = None) -> str:
        return json.dumps(self.list(max_items, offset))

    def get(self, prompt_id: str, owner: str | None = None) -> Any:
        return self.entries.get(prompt_id)

    def get_text(self, prompt_id: str, owner: str | None = None) -> str | None:
        return json.dumps(self.entries[prompt_id]) if prompt_id in self.entries else None

    def delete(self, ids: list[str], owner: str | None = None) -> None:
        self.calls.append(("delete", list(ids)))

    def clear(self, owner: str | None = None) -> None:
        self.calls.append("clear")


@dataclass
class Jobs:
    jobs: list[dict[str, Any]] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)

    def list(self, *query: Any) -> tuple[list[dict[str, Any]], int]:
        self.calls.append(query[:-1])
        return self.jobs, len(self.jobs)

    def get(self, job_id: str, owner: str | None = None) -> Any:
        return next((job for job in self.jobs if job["id"] == job_id), None)

    def cancel(self, job_id: str, owner: str | None = None) -> bool:
        return self.get(job_id) is not None

    def cancel_many(self, ids: list[str], owner: str | None = None) -> bool:
        return any(self.cancel(job_id) for job_id in ids)


class FakeEngine:
    """Answers as an engine does, and keeps what it was asked."""

    def __init__(self) -> None:
        self.events = Events()
        self.queue = Queue()
        self.history = History()
        self.jobs = Jobs()
        self.calls: list[Any] = []
        self.active: Executing | None = None
        self.state = "new"
        self.memory: dict[str, Any] | None = None

    async def start(self) -> None:
        self.state = "started"

    async def close(self) -> None:
        self.state = "closed"

    async def submit(self, body: dict[str, Any], owner: str | None = None) -> Taken:
        self.calls.append(("submit", body))
        if "prompt" not in body:
            text = "No prompt provided"
            raise PromptRejected({"type": "no_prompt", "message": text, "details": text, "extra_info": {}}, {})
        return Taken(str(body.get("prompt_id", "made")), body.get("number", 0), {})

    def interrupt(self, prompt_id: str | None = None, owner: str | None = None) -> None:
        self.calls.append(("interrupt", prompt_id))

    async def freed(self, unload_models: bool, free_memory: bool, within: float) -> bool:
        self.calls.append(("free", unload_models, free_memory))
        return True

    async def describe_memory(self) -> dict[str, Any] | None:
        return self.memory

    def replay(self, client_id: str) -> list[Event]:
        return [self.active] if self.active and self.active.client_id == client_id else []

    def object_info(self, kind: str | None = None, owner: str | None = None) -> dict[str, Any]:
        known = {"PreviewAny": {"name": "PreviewAny"}}
        return known if kind is None else {kind: known[kind]} if kind in known else {}

    def object_info_bytes(self, owner: str | None = None) -> bytes:
        return json.dumps(self.object_info()).encode()


@dataclass
class Running:
    """A server that runs, a client of it, and what is behind."""

    client: TestClient[Any, Any]
    engine: FakeEngine
    store: Store
    logs: LogRing
    base: Path

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        """Status and body: parsed where it is JSON, else bytes."""
        return await self.ask("GET", path, **options)

    async def post(self, path: str, **options: Any) -> tuple[int, Any]:
        return await self.ask("POST", path, **options)

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self.client.request(method, path, **options) as response:
            body = await response.read()
            return response.status, json.loads(body) if body and response.content_type == "application/json" else body

    async def socket(self, client_id: str = "me", **flags: Any) -> ClientWebSocketResponse[bool]:
        """A socket that has said hello, with the greeting read."""
        socket = await self.client.ws_connect(f"/ws?clientId={client_id}")
        await heard(socket)
        if flags:
            await socket.send_json({"type": "feature_flags", "data": flags})
            await heard(socket)
        return socket

    @property
    def hub(self) -> Any:
        return self.client.app[HUB]  # type: ignore[index]


async def heard(socket: ClientWebSocketResponse[bool]) -> Any:
    """The next message: parsed text, or bytes."""
    message = await socket.receive(timeout=5)
    if message.type is WSMsgType.TEXT:
        return json.loads(message.data)
    assert message.type is WSMsgType.BINARY, message
    return message.data


@asynccontextmanager
async def server(base: Path, **settings: Any) -> AsyncIterator[Running]:
    chosen = replace(Settings(), base_directory=str(base), **settings)
    store, engine, logs = Store.open(chosen, owned=False), FakeEngine(), LogRing()
    app = make_app(chosen, engine, store, logs=logs)  # type: ignore[arg-type]
    async with TestClient(TestServer(app)) as client:
        yield Running(client, engine, store, logs, base)
    store.close()
