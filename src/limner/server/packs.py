"""What node packs bring to the server: routes, scripts, on-prompt handlers, a report; and waiting until they are there.

The server knows packs by `PackSide` alone; the command that starts it gives one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from aiohttp import web
from aiohttp.typedefs import Middleware

from limner.server.auth import for_administrators
from limner.server.frontend import send_below
from limner.server.keys import Handler

if TYPE_CHECKING:
    from limner.server.hub import Hub

LISTS = ("/object_info", "/extensions")
"""Paths whose answer is wrong before packs are there."""


class PackSide(Protocol):
    """Node packs, as the server sees them."""

    def start(self) -> None:
        """Begin to load packs, in the background."""

    async def wait(self) -> None:
        """Wait until every pack is loaded or has failed."""

    def attach(self, loop: asyncio.AbstractEventLoop, hub: Hub) -> None:
        """There are an event loop and sockets."""

    async def on_prompt(self, body: Any) -> Any:
        """The body of a POST /prompt as packs' handlers have it, after waiting for the packs it needs."""

    def script_folders(self) -> Mapping[str, str]:
        """Folders of scripts by the name they are served under."""

    async def resolve(self, request: web.Request) -> web.UrlMappingMatchInfo | None:
        """The pack's route that answers a request, or None."""

    def report(self) -> Mapping[str, Any]:
        """What became of each pack."""


class NoPacks:
    """A server without packs."""

    def start(self) -> None:
        """There is nothing to load."""

    async def wait(self) -> None:
        """There is nothing to wait for."""

    def attach(self, loop: asyncio.AbstractEventLoop, hub: Hub) -> None:
        """Nobody sends."""

    async def on_prompt(self, body: Any) -> Any:
        """The body as it is."""
        return body

    def script_folders(self) -> Mapping[str, str]:
        """None."""
        return {}

    async def resolve(self, request: web.Request) -> web.UrlMappingMatchInfo | None:
        """None."""
        del request
        return None

    def report(self) -> Mapping[str, Any]:
        """None."""
        return {"ready": True, "packs": [], "collisions": []}


PACKS: web.AppKey[PackSide] = web.AppKey("packs")


def make_pack_door() -> Middleware:
    """The middleware that lets packs answer what the server itself does not, and makes lists wait for packs."""

    @web.middleware
    async def door(request: web.Request, handler: Handler) -> web.StreamResponse:
        packs = request.app[PACKS]
        path = request.path.removeprefix("/api")
        if path.startswith(LISTS) and (path in LISTS or path.startswith("/object_info/")):
            await packs.wait()
        try:
            return await handler(request)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
            if request.match_info.http_exception is None and "path" not in request.match_info:
                raise  # a route of the server's own says that what was asked for is not there
            await packs.wait()
            found = await _from_pack(request, packs)
            if found is None:
                raise
            return found

    return door


async def _from_pack(request: web.Request, packs: PackSide) -> web.StreamResponse | None:
    """A pack's script, or what a pack's route answers."""
    head, _, rest = request.path.removeprefix("/extensions/").partition("/")
    if request.path.startswith("/extensions/") and head in packs.script_folders() and request.method in ("GET", "HEAD"):
        return await send_below(Path(packs.script_folders()[head]), rest)
    match = await packs.resolve(request)
    if match is None:
        return None
    match.add_app(request.app)
    mine = request.clone()  # with the parts of its own path
    mine._match_info = match
    return await for_administrators(match.handler)(mine)


async def scripts(packs: PackSide) -> list[str]:
    """Addresses of packs' scripts."""
    return await asyncio.to_thread(_scripts, dict(packs.script_folders()))


def _scripts(folders: Mapping[str, str]) -> list[str]:
    found = []
    for name, folder in folders.items():
        files = sorted(Path(folder).rglob("*.js"))
        found += [f"/extensions/{quote(name)}/{quote(file.relative_to(folder).as_posix())}" for file in files]
    return found
