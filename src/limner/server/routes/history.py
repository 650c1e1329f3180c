"""History: list, one, delete."""

from __future__ import annotations

import asyncio
import json

from aiohttp.web import Request, Response

from limner.server.keys import ENGINE, Route, owner_of
from limner.server.removals import REMOVAL, remover
from limner.server.replies import json_reply, whole_number
from limner.server.schemas import BAD, DONE, OBJECT, WHOLE, json_of, obj, table

ENTRY = obj("prompt outputs status meta", prompt={"type": "array"}, outputs=OBJECT, status={}, meta=OBJECT)
ENTRIES = json_of("Entries by prompt id, in order of completion.", table(ENTRY))

# Read in a thread: what others ask meanwhile need not wait for the disk.


async def show(request: Request) -> Response:
    """Finished prompts in order of completion: the newest `max_items`, or with `offset` those after the oldest so many.

    Without max_items the newest 10,000, which is as many as ComfyUI keeps.
    """
    most, offset = whole_number(request, "max_items"), whole_number(request, "offset")
    read = request.app[ENGINE].history.list_text
    text = await asyncio.to_thread(read, most, -1 if offset is None else offset, owner_of(request))
    return json_reply(text.encode())


async def one(request: Request) -> Response:
    """One finished prompt, {} when it is unknown or not finished."""
    prompt_id = request.match_info["prompt_id"]
    entry = await asyncio.to_thread(request.app[ENGINE].history.get_text, prompt_id, owner_of(request))
    return json_reply(b"{}" if entry is None else f"{{{json.dumps(prompt_id)}:{entry}}}".encode())


ROUTES = (
    Route("GET", "/history", show, query={"max_items": WHOLE, "offset": WHOLE}, answers={200: ENTRIES, 400: BAD}),
    Route("GET", "/history/{prompt_id}", one, answers={200: ENTRIES}),
    Route(
        "POST",
        "/history",
        remover(lambda request: request.app[ENGINE].history, "Forget everything (`clear`) or some (`delete`)."),
        body=REMOVAL,
        answers={200: DONE},
    ),
)
