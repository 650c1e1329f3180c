"""History: list, one, delete."""

from __future__ import annotations

from aiohttp.web import Request, Response

from limner.server.keys import ENGINE, Route, owner_of
from limner.server.replies import json_reply, read_object, text_list, whole_number
from limner.server.schemas import (
    ANY,
    BAD,
    DONE,
    OBJECT,
    SWITCH,
    TEXTS,
    WHOLE,
    Body,
    array,
    json_of,
    nullable,
    obj,
    table,
)


async def show(request: Request) -> Response:
    """Finished prompts in order of completion."""
    offset = whole_number(request, "offset")
    history = request.app[ENGINE].history
    most, offset = whole_number(request, "max_items"), -1 if offset is None else offset
    return json_reply(history.list(most, offset, owner_of(request)))


async def one(request: Request) -> Response:
    """One finished prompt, {} when it is unknown or not finished."""
    prompt_id = request.match_info["prompt_id"]
    entry = request.app[ENGINE].history.get(prompt_id, owner_of(request))
    return json_reply({} if entry is None else {prompt_id: entry})


async def change(request: Request) -> Response:
    """Forget everything (`clear`) or some (`delete`)."""
    body = await read_object(request)
    prompt_ids = text_list(body, "delete")
    history, owner = request.app[ENGINE].history, owner_of(request)
    if body.get("clear"):
        history.clear(owner)
    if prompt_ids:
        history.delete(prompt_ids, owner)
    return Response()


ENTRY = obj("prompt outputs status meta", prompt=array(ANY), outputs=OBJECT, status=nullable(OBJECT), meta=OBJECT)
ENTRIES = json_of("Entries by prompt id.", table(ENTRY))
CHANGE = obj(clear=SWITCH, delete=TEXTS)

ROUTES = (
    Route("GET", "/history", show, query={"max_items": WHOLE, "offset": WHOLE}, answers={200: ENTRIES, 400: BAD}),
    Route("GET", "/history/{prompt_id}", one, answers={200: ENTRIES}),
    Route("POST", "/history", change, body=Body(CHANGE), answers={200: DONE}),
)
