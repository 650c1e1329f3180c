"""For those who watch the server: is it there, can it work, what has it done."""

from __future__ import annotations

from aiohttp.web import Request, Response

from limner.server.keys import ENGINE, Route
from limner.server.metrics import TYPE, exposition
from limner.server.packs import PACKS
from limner.server.replies import json_reply
from limner.server.schemas import SWITCH, TEXT, Answer, json_of, obj, words

READY = obj("ready engine packs database", ready=SWITCH, engine=SWITCH, packs=SWITCH, database=SWITCH)


async def alive(request: Request) -> Response:
    """The server answers."""
    del request
    return json_reply({"status": "ok"})


async def ready(request: Request) -> Response:
    """Whether prompts can be taken and run: the engine runs, packs are loaded, the database can be written."""
    found = {**await request.app[ENGINE].ready(), "packs": bool(request.app[PACKS].report().get("ready", True))}
    good = all(found.values())
    return json_reply({"ready": good, **found}, 200 if good else 503)


async def metrics(request: Request) -> Response:
    """Counts and durations for a monitor, in Prometheus' text format."""
    return Response(body=exposition(request.app).encode(), headers={"Content-Type": TYPE})


ROUTES = (
    Route("GET", "/healthz", alive, answers={200: json_of("It does.", obj("status", status=words("ok")))}),
    Route("GET", "/readyz", ready, answers={200: json_of("They can.", READY), 503: json_of("They cannot yet.", READY)}),
    Route("GET", "/metrics", metrics, admin=True, answers={200: Answer("The metrics.", TEXT, "text/plain")}),
)
