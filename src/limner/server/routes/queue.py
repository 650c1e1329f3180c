"""The queue: what runs, what waits; taking out, pausing, re-ordering."""

from __future__ import annotations

from aiohttp.web import Request, Response

from limner.engine.control import NotWaiting
from limner.engine.places import Target
from limner.errors import BadInput
from limner.server.keys import ENGINE, Route, owner_of
from limner.server.removals import REMOVAL, remover
from limner.server.replies import json_reply, problem, read_object
from limner.server.schemas import (
    ANY,
    DONE,
    NUMBER,
    PROBLEM,
    SWITCH,
    TEXT,
    WHOLE,
    Answer,
    Body,
    array,
    either,
    json_of,
    obj,
    words,
)

WAITS = obj("prompt_id number create_time position", prompt_id=TEXT, number=NUMBER, create_time=WHOLE, position=WHOLE)
RUNS = obj("prompt_id number create_time", prompt_id=TEXT, number=NUMBER, create_time=WHOLE)
STATE = json_of(
    "The queue as it stands, next first.",
    obj("paused running pending", paused=SWITCH, running=array(RUNS), pending=array(WAITS)),
)
ITEM = array(ANY)
NOT_WAITING = Answer("The prompt does not wait: it runs, has ended, or is unknown.", PROBLEM)
MOVE = Body(
    obj("prompt_id", prompt_id=TEXT, to=either(WHOLE, words("front", "back")), before=TEXT, after=TEXT),
)


async def show(request: Request) -> Response:
    """What runs and what waits."""
    queue, owner = request.app[ENGINE].queue, owner_of(request)
    return json_reply({"queue_running": queue.running(owner), "queue_pending": queue.pending(owner)})


async def state(request: Request) -> Response:
    """Whether the queue is paused, what runs, and what waits with its position."""
    return json_reply(request.app[ENGINE].control.state(owner_of(request)))


async def pause(request: Request) -> Response:
    """Start nothing new, over restarts too, until told to go on. What runs ends."""
    await request.app[ENGINE].control.pause()
    return await state(request)


async def resume(request: Request) -> Response:
    """Go on after a pause."""
    await request.app[ENGINE].control.pause(False)
    return await state(request)


async def move(request: Request) -> Response:
    """Give a waiting prompt another place: an index, the front, the back, or beside another prompt."""
    body = await read_object(request)
    prompt_id, target = body.get("prompt_id"), read_target(body)
    if not isinstance(prompt_id, str):
        raise BadInput("`prompt_id` must be the id of a waiting prompt.", why=f"It is {prompt_id!r:.80}.")
    try:
        position = await request.app[ENGINE].control.move(prompt_id, target, owner_of(request))
    except NotWaiting as error:
        return problem(error, 409)
    return json_reply({"prompt_id": prompt_id, "position": position})


def read_target(body: dict[str, object]) -> Target:
    """Where a body wants a prompt to be. Raises BadInput unless it says exactly one place."""
    given = [key for key in ("to", "before", "after") if body.get(key) is not None]
    if len(given) != 1:
        raise BadInput(
            "Where to is not said." if not given else f"It cannot be {' and '.join(given)} at once.",
            do='Send one of {"to": 0}, {"to": "front"}, {"to": "back"}, {"before": id}, {"after": id}.',
        )
    value = body[given[0]]
    if given[0] != "to":
        if not isinstance(value, str):
            raise BadInput(f"`{given[0]}` must be the id of a waiting prompt.", why=f"It is {value!r:.80}.")
        return Target(before=value) if given[0] == "before" else Target(after=value)
    if value in ("front", "back"):
        return Target(0 if value == "front" else -1)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadInput("`to` must be an index from 0 on, front or back.", why=f"It is {value!r:.80}.")
    return Target(value)


ROUTES = (
    Route(
        "GET",
        "/queue",
        show,
        answers={
            200: json_of(
                "Queue items: number, prompt id, prompt, extra data, outputs.",
                obj("queue_running queue_pending", queue_running=array(ITEM), queue_pending=array(ITEM)),
            )
        },
    ),
    Route(
        "POST",
        "/queue",
        remover(
            lambda request: request.app[ENGINE].queue,
            "Take everything out that waits (`clear`), or some (`delete`). What runs goes on.",
        ),
        body=REMOVAL,
        answers={200: DONE},
    ),
    Route("GET", "/queue/state", state, answers={200: STATE}),
    Route("POST", "/queue/pause", pause, admin=True, answers={200: STATE}),
    Route("POST", "/queue/resume", resume, admin=True, answers={200: STATE}),
    Route(
        "POST",
        "/queue/move",
        move,
        body=MOVE,
        answers={
            200: json_of("Where it is now, 0 being next.", obj("prompt_id position", prompt_id=TEXT, position=WHOLE)),
            409: NOT_WAITING,
        },
    ),
)
