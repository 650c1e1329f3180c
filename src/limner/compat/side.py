"""The side of packs that the server sees (`limner.server.packs.PackSide`): loading, routes, handlers, the report."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from limner.compat.setup import Compat
from limner.graph import is_api_prompt

if TYPE_CHECKING:
    from aiohttp import web

    from limner.compat.homes.server import PromptServer

log = logging.getLogger(__name__)


class _HubWire:
    """The server's sockets as `PromptServer` writes to them."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub

    def send(self, kind: str, data: Any, sid: str | None) -> None:
        """Send a text frame."""
        try:
            self._hub.send(kind, data, sid)
        except (TypeError, ValueError) as error:
            log.warning("A pack's message %r is not sent: %s", kind, error)

    def send_bytes(self, data: bytes, sid: str | None) -> None:
        """Send a binary frame."""
        self._hub.send_bytes(data, sid)

    def sockets(self) -> Mapping[str, Any]:
        """The open sockets by client id."""
        return self._hub.sockets()  # type: ignore[no-any-return]

    def flags(self, sid: str) -> Mapping[str, Any]:
        """What a client said it can do."""
        socket = self._hub.sockets().get(sid)
        return {} if socket is None else dict(socket.flags)


class ServerSide:
    """Packs for one server."""

    def __init__(self, compat: Compat) -> None:
        self._compat = compat
        self._packs = compat.packs
        self._routes: tuple[int, Any] = (0, None)
        self._thread: threading.Thread | None = None

    @property
    def _server(self) -> PromptServer:
        from limner.compat.homes.server import PromptServer  # noqa: PLC0415 - aiohttp's server half

        server: PromptServer = PromptServer.instance
        return server

    def start(self) -> None:
        """Begin to load packs, in a thread."""
        self._thread = threading.Thread(target=self._load, name="limner-packs", daemon=True)
        self._thread.start()

    def _load(self) -> None:
        self._packs.load()
        self._packs.linger()

    async def wait(self) -> None:
        """Wait until every pack is loaded or has failed."""
        await _set(self._packs.ready)

    def attach(self, loop: asyncio.AbstractEventLoop, hub: Any) -> None:
        """There are an event loop and sockets."""
        self._server.attach(loop, _HubWire(hub))

    async def on_prompt(self, body: Any) -> Any:
        """The body of a POST /prompt as packs' handlers have it.

        A prompt of built-in nodes waits for prestartup scripts alone, any other for the packs.
        """
        await _set(self._packs.started)
        if not self._packs.ready.is_set() and not self._is_built_in(body):
            await self.wait()
        if not isinstance(body, dict) or not self._server.on_prompt_handlers:
            return body
        return self._server.trigger_on_prompt(body)

    def _is_built_in(self, body: Any) -> bool:
        prompt = body.get("prompt") if isinstance(body, dict) else None
        if not isinstance(prompt, dict) or not is_api_prompt(prompt):
            return False
        kinds = {call.get("class_type") for call in prompt.values() if isinstance(call, dict)}
        return all(isinstance(kind, str) and self._compat.host.registry.get(kind) is not None for kind in kinds)

    def script_folders(self) -> Mapping[str, str]:
        """Folders of scripts by the name they are served under."""
        return self._compat.host.tables.web

    async def resolve(self, request: web.Request) -> web.UrlMappingMatchInfo | None:
        """The pack's route that answers a request, or None."""
        for dispatcher in (self._dispatcher(), self._server.app.router):
            if dispatcher is None:
                continue
            match = await dispatcher.resolve(request)
            if match.http_exception is None:
                return match
        return None

    def _dispatcher(self) -> Any:
        """The routes of the route table, each below /api too; made anew when there are more."""
        from aiohttp import web  # noqa: PLC0415 - only servers ask for routes

        table = list(self._server.routes)
        if self._routes[0] != len(table):
            made = web.UrlDispatcher()
            for one in table:
                try:
                    one.register(made)
                    if isinstance(one, web.RouteDef):
                        web.RouteDef(one.method, "/api" + one.path, one.handler, dict(one.kwargs)).register(made)
                except (RuntimeError, ValueError) as error:  # noqa: PERF203 - one route that cannot be stops no other
                    log.warning("A pack's route %s is left out: %s", getattr(one, "path", one), error)
            self._routes = len(table), made
        return self._routes[1]

    def report(self) -> Mapping[str, Any]:
        """What became of each pack."""
        return self._packs.to_json()


async def _set(event: threading.Event) -> None:
    """Wait for a thread's event without holding the loop up."""
    while not event.is_set():
        await asyncio.sleep(0.02)
