"""The whole server in this process's own threads, asked in the plainest way: status, headers, bytes."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from limner.cli.assemble import assembled
from limner.compat.side import ServerSide
from limner.server.app import make_app
from limner.settings import Settings


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Live:
    """A server that runs; `base` is its folder."""

    port: int
    base: Path

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            return Reply(reply.status, reply.read(), reply.headers)
        finally:
            connection.close()

    def get(self, path: str) -> Reply:
        return self.request("GET", path)

    def post(self, path: str, body: Any) -> Reply:
        return self.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def upload(self, path: str, name: str, content: bytes, **fields: str) -> Reply:
        parts = [
            f'--b\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n' for key, value in fields.items()
        ]
        head = f'--b\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
        body = "".join(parts).encode() + head.encode() + content + b"\r\n--b--\r\n"
        return self.request("POST", path, body, {"Content-Type": "multipart/form-data; boundary=b"})

    def finished(self, prompt: str, seconds: float = 60.0) -> Any:
        """The history entry of a prompt, once it has one."""
        deadline = time.monotonic() + seconds
        while prompt not in (history := self.get(f"/history/{prompt}").json()):
            assert time.monotonic() < deadline, "the prompt did not end"
            time.sleep(0.01)
        return history[prompt]


@contextlib.contextmanager
def live_server(base: Path, **settings: Any) -> Iterator[Live]:
    """A server with the engine, the store, the nodes and the packs that `limner serve` has, below `base`."""
    chosen = Settings(**{"base_directory": str(base), "max_upload_size": 2, **settings})
    ready, stop = threading.Event(), threading.Event()
    port: list[int] = []

    async def main() -> None:
        with assembled(chosen) as parts:
            packs = ServerSide(parts.compat)
            await parts.engine.start()
            runner = web.AppRunner(make_app(chosen, parts.engine, parts.store, packs=packs))
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            packs.start()
            await packs.wait()
            port.append(runner.addresses[0][1])
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.01)
            await runner.cleanup()
            await parts.engine.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    try:
        assert ready.wait(30), "the server did not start"
        yield Live(port[0], base)
    finally:
        stop.set()
        thread.join(20)
