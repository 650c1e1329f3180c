"""Jobs: queue and history as one list, as the newer front ends ask for them."""

from __future__ import annotations

import asyncio
from uuid import UUID

from aiohttp.web import Request, Response

from limner.engine.control import NotWaiting
from limner.errors import BadInput
from limner.server.keys import ENGINE, Route, owner_of
from limner.server.replies import json_reply, read_json, read_object
from limner.server.schemas import (
    NUMBER,
    OBJECT,
    SWITCH,
    TEXT,
    TEXTS,
    WHOLE,
    Answer,
    Body,
    array,
    json_of,
    nullable,
    obj,
    table,
    words,
)

STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")
SORTS = ("created_at", "execution_duration")
LARGEST = 1e15


async def show(request: Request) -> Response:
    """A page of jobs; see `Query` in the reference for what may be asked."""
    query = request.query
    asked = [part.strip().lower() for part in query.get("status", "").split(",") if part.strip()]
    unknown = [status for status in asked if status not in STATUSES]
    sort_by = query.get("sort_by", "created_at")
    sort_order = query.get("sort_order", "desc")
    if unknown:
        valid = ", ".join(STATUSES)
        return refuse(f"Invalid status value(s): {', '.join(unknown)}. Valid values: {valid}")
    if sort_by not in SORTS:
        return refuse("sort_by must be 'created_at' or 'execution_duration'")
    if sort_order not in ("asc", "desc"):
        return refuse("sort_order must be 'asc' or 'desc'")
    try:
        limit = _integer(query.get("limit"), "limit")
        offset = max(0, _integer(query.get("offset"), "offset") or 0)
    except BadInput as error:
        return refuse(error.what)
    if limit is not None and limit <= 0:
        return refuse("limit must be a positive integer")
    jobs, total = await asyncio.to_thread(
        request.app[ENGINE].jobs.list,
        asked or list(STATUSES),
        query.get("workflow_id"),
        sort_by,
        sort_order,
        limit,
        offset,
        owner_of(request),
    )
    page = {"offset": offset, "limit": limit, "total": total, "has_more": offset + len(jobs) < total}
    return json_reply({"jobs": jobs, "pagination": page})


def _integer(text: str | None, name: str) -> int | None:
    try:
        return None if text is None else int(text[:18])
    except ValueError:
        raise BadInput(f"{name} must be an integer") from None


def refuse(text: str, **more: object) -> Response:
    """The jobs API's form of an error."""
    return json_reply({"error": text, **more}, 400)


async def one(request: Request) -> Response:
    """One job with everything known of it."""
    job = await asyncio.to_thread(request.app[ENGINE].jobs.get, request.match_info["job_id"], owner_of(request))
    return unknown() if job is None else json_reply(job)


def unknown() -> Response:
    """The jobs API's form of a 404."""
    return json_reply({"error": "Job not found"}, 404)


async def explain(request: Request) -> Response:
    """Why each node of a job ran: cached or not, and which input changed. Empty until the job has ended."""
    job_id = request.match_info["job_id"]
    found = await asyncio.to_thread(request.app[ENGINE].jobs.explain, job_id, owner_of(request))
    return unknown() if found is None else json_reply(found)


async def prioritise(request: Request) -> Response:
    """Give a waiting job another priority: the queue's number, lower first."""
    job_id, engine, owner = request.match_info["job_id"], request.app[ENGINE], owner_of(request)
    number = (await read_object(request)).get("priority")
    if isinstance(number, bool) or not isinstance(number, int | float):
        return refuse("priority must be a number")
    if not abs(number) <= LARGEST:  # integers of any length compare, though they make no float
        return refuse(f"priority must lie between -{LARGEST:.0e} and {LARGEST:.0e}")
    try:
        position = await engine.control.renumber(job_id, number, owner)
    except NotWaiting:
        known = await asyncio.to_thread(engine.jobs.get, job_id, owner)
        return unknown() if known is None else json_reply({"error": "Job is not waiting"}, 409)
    return json_reply({"id": job_id, "priority": number, "position": position})


async def cancel(request: Request) -> Response:
    """Interrupt a running job or take a waiting one out; whether that did anything."""
    cancelled = request.app[ENGINE].jobs.cancel(request.match_info["job_id"], owner_of(request))
    return json_reply({"cancelled": cancelled})


async def cancel_many(request: Request) -> Response:
    """Cancel several; whether any of them was still open."""
    try:
        body = await read_json(request)
    except BadInput:
        return refuse("Request body must be valid JSON")
    job_ids = body.get("job_ids") if isinstance(body, dict) else None
    if not isinstance(job_ids, list):
        return refuse("job_ids must be a list")
    invalid = [job_id for job_id in job_ids if not is_uuid(job_id)]
    if invalid:
        return refuse("job_ids contains invalid id(s)", invalid_ids=invalid)
    return json_reply({"cancelled": request.app[ENGINE].jobs.cancel_many(job_ids, owner_of(request))})


def is_uuid(text: object) -> bool:
    """Whether it is a UUID in lower case with hyphens."""
    try:
        return isinstance(text, str) and str(UUID(text)) == text
    except ValueError:
        return False


ERROR = obj("error", error=TEXT, invalid_ids=array({}))
JOB = obj(
    "id status create_time outputs_count",
    id=TEXT,
    status=words(*STATUSES),
    priority=NUMBER,
    create_time=WHOLE,
    execution_start_time=WHOLE,
    execution_end_time=WHOLE,
    execution_error=OBJECT,
    outputs_count=WHOLE,
    previewable_outputs_count=WHOLE,
    preview_output=OBJECT,
    workflow_id=TEXT,
)
PAGE = obj(
    "jobs pagination",
    jobs=array(JOB),
    pagination=obj("offset limit total has_more", offset=WHOLE, limit=nullable(WHOLE), total=WHOLE, has_more=SWITCH),
)
WRONG = Answer("The request cannot be meant.", ERROR)
UNKNOWN = Answer("There is no such job.", ERROR)
CANCELLED = json_of("Whether it was still open.", obj("cancelled", cancelled=SWITCH))
QUERY = {
    "status": {**TEXT, "description": f"Some of {', '.join(STATUSES)}, separated by commas; all by default."},
    "workflow_id": TEXT,
    "sort_by": words(*SORTS),
    "sort_order": words("asc", "desc"),
    "limit": WHOLE,
    "offset": WHOLE,
}

ROUTES = (
    Route("GET", "/jobs", show, query=QUERY, answers={200: json_of("A page of jobs.", PAGE), 400: WRONG}),
    Route(
        "POST",
        "/jobs/cancel",
        cancel_many,
        body=Body(obj("job_ids", job_ids=TEXTS)),
        answers={200: CANCELLED, 400: WRONG},
    ),
    Route("GET", "/jobs/{job_id}", one, answers={200: json_of("The job.", JOB), 404: UNKNOWN}),
    Route("POST", "/jobs/{job_id}/cancel", cancel, answers={200: CANCELLED}),
    Route(
        "GET",
        "/jobs/{job_id}/explain",
        explain,
        answers={
            200: json_of(
                "Why each node ran.", obj("id status nodes", id=TEXT, status=words(*STATUSES), nodes=table(OBJECT))
            ),
            404: UNKNOWN,
        },
    ),
    Route(
        "POST",
        "/jobs/{job_id}/priority",
        prioritise,
        body=Body(obj("priority", priority=NUMBER)),
        answers={
            200: json_of(
                "Where it is now, 0 being next.",
                obj("id priority position", id=TEXT, priority=NUMBER, position=WHOLE),
            ),
            400: WRONG,
            404: UNKNOWN,
            409: Answer("The job runs or has ended.", ERROR),
        },
    ),
)
