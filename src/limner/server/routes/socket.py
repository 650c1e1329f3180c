"""The WebSocket."""

from __future__ import annotations

from aiohttp.web import Request, WebSocketResponse

from limner.server.keys import HUB, Route


async def connect(request: Request) -> WebSocketResponse:
    """Speak with one client until it goes."""
    return await request.app[HUB].serve(request)


ROUTES = (Route("GET", "/ws", connect),)
