"""The WebSocket."""

from __future__ import annotations

from aiohttp.web import Request, WebSocketResponse

from limner.server.keys import HUB, Route
from limner.server.schemas import TEXT, Answer


async def connect(request: Request) -> WebSocketResponse:
    """Speak with one client until it goes."""
    return await request.app[HUB].serve(request)


ROUTES = (
    Route(
        "GET",
        "/ws",
        connect,
        query={"clientId": TEXT},
        answers={
            101: Answer("The socket is open."),
            400: Answer("This is no handshake.", TEXT, "text/plain"),
        },
    ),
)
