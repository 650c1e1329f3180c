"""The WebSocket."""

from __future__ import annotations

from aiohttp.web import Request, StreamResponse

from limner.server.hub import TooManySockets
from limner.server.keys import HUB, Route
from limner.server.replies import problem
from limner.server.schemas import PROBLEM, TEXT, Answer


async def connect(request: Request) -> StreamResponse:
    """Speak with one client until it goes."""
    try:
        return await request.app[HUB].serve(request)
    except TooManySockets as error:
        return problem(error, 503)


ROUTES = (
    Route(
        "GET",
        "/ws",
        connect,
        query={"clientId": TEXT},
        answers={
            101: Answer("The socket is open."),
            503: Answer("Too many sockets are open.", PROBLEM),
            400: Answer("This is no handshake.", TEXT, "text/plain"),
        },
    ),
)
