"""The queue: what runs, what waits; taking out."""

from __future__ import annotations

from aiohttp.web import Request, Response

from limner.server.keys import ENGINE, Route, owner_of
from limner.server.replies import json_reply, read_object, text_list
from limner.server.schemas import ANY, DONE, SWITCH, TEXTS, Body, array, json_of, obj


async def show(request: Request) -> Response:
    """What runs and what waits."""
    queue, owner = request.app[ENGINE].queue, owner_of(request)
    return json_reply({"queue_running": queue.running(owner), "queue_pending": queue.pending(owner)})


async def change(request: Request) -> Response:
    """Take everything out that waits (`clear`), or some (`delete`). What runs goes on."""
    body = await read_object(request)
    prompt_ids = text_list(body, "delete")
    queue, owner = request.app[ENGINE].queue, owner_of(request)
    if body.get("clear"):
        queue.clear(owner)
    if prompt_ids:
        queue.delete(prompt_ids, owner)
    return Response()


ITEM = array(ANY)
"""`[number, prompt_id, prompt, extra_data, outputs_to_execute]`."""
QUEUE = obj("queue_running queue_pending", queue_running=array(ITEM), queue_pending=array(ITEM))
CHANGE = obj(clear=SWITCH, delete=TEXTS)

ROUTES = (
    Route("GET", "/queue", show, answers={200: json_of("What runs and what waits, next first.", QUEUE)}),
    Route("POST", "/queue", change, body=Body(CHANGE), answers={200: DONE}),
)
