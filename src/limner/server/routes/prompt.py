"""Prompts in: submit, interrupt, and memory back."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import Any

from aiohttp.web import Request, Response, StreamResponse

from limner.engine import Accepted, PromptRejected
from limner.errors import BadInput
from limner.server.keys import ENGINE, Route, owner_of
from limner.server.packs import PACKS
from limner.server.replies import flag, json_reply, parse_json, read_object
from limner.server.schemas import (
    ANY,
    DONE,
    NUMBER,
    OBJECT,
    SWITCH,
    TEXT,
    TEXTS,
    WHOLE,
    Body,
    array,
    json_of,
    nullable,
    obj,
    table,
)

LOOKS = 0.2
"""Seconds between two looks whether the client that waits is still there."""
LONGEST_FREEING = 30.0
"""Seconds that a client is let wait for its memory at most."""


async def remaining(request: Request) -> Response:
    """How many prompts wait or run.

    Told twice: `status` is what the socket's message of that name holds. Clients that poll here while their socket is
    away (@saintno/comfyui-sdk) take the reply for one, and end with an exception without it.
    """
    found = {"exec_info": {"queue_remaining": request.app[ENGINE].queue.remaining(owner_of(request))}}
    return json_reply({**found, "status": found})


async def submit(request: Request) -> StreamResponse:
    """Take a prompt in: answered once it is kept for good, with `wait=true` once it has ended, with its outputs.

    With `timeout`, the answer comes after so many seconds with status 202 if the prompt has not ended; it goes on. It
    goes on too when the client leaves, unless `cancel_on_disconnect=true`.
    """
    try:
        seconds = read_seconds(request)
        body = await request.app[PACKS].on_prompt(await read_object(request))
        accepted = await request.app[ENGINE].submit(body, owner_of(request))
    except PromptRejected as rejected:
        return json_reply({"error": rejected.error, "node_errors": rejected.node_errors}, 400)
    except BadInput as error:
        return json_reply({"error": invalid_prompt(error), "node_errors": {}}, 400)
    answer = {"prompt_id": accepted.prompt_id, "number": accepted.number, "node_errors": accepted.node_errors}
    return await ending(request, accepted, answer, seconds) if flag(request, "wait") else json_reply(answer)


def read_seconds(request: Request) -> float | None:
    """The `timeout` of the query, None when it names none. Raises BadInput for what is no span of time."""
    text = request.query.get("timeout")
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        seconds = float(text[:20])
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    raise BadInput("`timeout` must be a number of seconds.", why=f"It is {text!r:.40}.")


async def ending(request: Request, accepted: Accepted, answer: dict[str, Any], seconds: float | None) -> Response:
    """The answer to a prompt that was waited for."""
    engine, prompt_id = request.app[ENGINE], accepted.prompt_id
    task = asyncio.ensure_future(engine.wait(prompt_id))
    watcher = asyncio.ensure_future(gone(request)) if flag(request, "cancel_on_disconnect") else None
    tasks = [task] if watcher is None else [task, watcher]
    left = True  # also when this handler is cancelled, which is another way to hear that the client has gone
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        left = watcher is not None and watcher.done() and not task.done()
    finally:
        if left and watcher is not None:
            engine.jobs.cancel(prompt_id, owner_of(request))
        for one in tasks:
            one.cancel()
    if not task.done() or task.cancelled():
        return json_reply({**answer, "status": None, "outputs": {}, "meta": {}}, 202)
    entry = task.result()
    if entry is None:
        taken_out = {"status_str": "error", "completed": False, "messages": []}
        return json_reply({**answer, "status": taken_out, "outputs": {}, "meta": {}})
    return json_reply({**answer, **{key: entry[key] for key in ("status", "outputs", "meta")}})


async def gone(request: Request) -> None:
    """Return when the client has closed its connection."""
    while request.transport is not None and not request.transport.is_closing():
        await asyncio.sleep(LOOKS)


def invalid_prompt(error: BadInput) -> dict[str, object]:
    """The protocol's form of a body that holds no prompt at all."""
    details = " ".join(part for part in (error.why, error.do) if part)
    return {"type": "invalid_prompt", "message": error.what, "details": details, "extra_info": {}}


async def interrupt(request: Request) -> Response:
    """Interrupt the running prompt; with `prompt_id`, only if it is that one. A body that is no JSON counts as {}."""
    try:
        body = parse_json(await request.read())
    except BadInput:
        body = {}
    prompt_id = body.get("prompt_id") if isinstance(body, dict) else None
    request.app[ENGINE].interrupt(None if prompt_id is None else str(prompt_id), owner_of(request))
    return Response()


async def free(request: Request) -> Response:
    """Unload models (`unload_models`), and drop cached results too (`free_memory`): answered once memory is back.

    What a running prompt does not need goes at once, the rest when it is over. The answer waits for that, for 30
    seconds at most; it goes all the same.
    """
    body = await read_object(request)
    free_memory = bool(body.get("free_memory", False))
    await request.app[ENGINE].freed(bool(body.get("unload_models", free_memory)), free_memory, LONGEST_FREEING)
    return Response()


REMAINING = obj("exec_info", exec_info=obj("queue_remaining", queue_remaining=WHOLE), status=OBJECT)
NODE_ERRORS = table(
    obj("errors dependent_outputs class_type", errors=array(OBJECT), dependent_outputs=TEXTS, class_type=TEXT)
)
ERROR = obj("type message details extra_info", type=TEXT, message=TEXT, details=TEXT, extra_info=OBJECT)
ACCEPTED = obj(
    "prompt_id number node_errors",
    prompt_id=TEXT,
    number=NUMBER,
    node_errors=NODE_ERRORS,
    status={**nullable(OBJECT), "description": "With `wait`, as in the history; null while it has not ended."},
    outputs=OBJECT,
    meta=OBJECT,
)
REJECTED = obj("error node_errors", error=ERROR, node_errors=NODE_ERRORS)
PROMPT = obj(
    "prompt",
    prompt={**OBJECT, "description": "Node id → class_type and inputs; or a workflow as the front end saves it."},
    prompt_id=ANY,
    number={"type": ["number", "string", "null"], "description": "The place in the queue, lower first."},
    front=ANY,
    partial_execution_targets=nullable(array(ANY)),
    extra_data=nullable(OBJECT),
    client_id=ANY,
)
WAITING = {
    "wait": {**SWITCH, "description": "Answer once the prompt has ended, with its outputs."},
    "timeout": {**NUMBER, "description": "Seconds to wait at most; then the answer is 202."},
    "cancel_on_disconnect": {**SWITCH, "description": "Cancel the prompt when the client that waits leaves."},
}

ROUTES = (
    Route("GET", "/prompt", remaining, answers={200: json_of("How many wait or run.", REMAINING)}),
    Route(
        "POST",
        "/prompt",
        submit,
        body=Body(PROMPT),
        query=WAITING,
        answers={
            200: json_of("It is in the queue; with `wait` it has ended.", ACCEPTED),
            202: json_of("It goes on: it has not ended within `timeout`.", ACCEPTED),
            400: json_of("It is not run.", REJECTED),
        },
    ),
    Route("POST", "/interrupt", interrupt, body=Body(obj(prompt_id=ANY), required=False), answers={200: DONE}),
    Route("POST", "/free", free, body=Body(obj(unload_models=ANY, free_memory=ANY)), answers={200: DONE}),
)
