"""What the front end's own panels ask: logs and folders."""

from __future__ import annotations

import asyncio

from aiohttp.web import Request, Response

from limner.errors import BadInput
from limner.server.keys import HUB, LOGS, STORE, Route, owner_of
from limner.server.logs import terminal_size
from limner.server.replies import json_reply, read_object
from limner.server.schemas import DONE, SWITCH, TEXT, TEXTS, WHOLE, Body, array, json_of, obj, table
from limner.store.files import SHARED_KINDS


async def logs(request: Request) -> Response:
    """The log as one text."""
    return json_reply(request.app[LOGS].text())


async def raw_logs(request: Request) -> Response:
    """The log's entries."""
    return json_reply({"entries": request.app[LOGS].entries(), "size": terminal_size()})


async def subscribe(request: Request) -> Response:
    """Send a client new log lines over its socket, or stop that."""
    body = await read_object(request)
    client_id = body.get("clientId")
    if not isinstance(client_id, str):
        raise BadInput("`clientId` is missing.", do="Send the id that the socket was opened with.")
    request.app[HUB].read_logs(client_id, enabled=bool(body.get("enabled")))
    return Response()


async def folder_paths(request: Request) -> Response:
    """Where the model folders are on disk."""
    folders = request.app[STORE].folders
    return json_reply({key: [str(root) for root in folders.roots(key)] for key in folders.names()})


async def files(request: Request) -> Response:
    """Files at the top of the input, output or temp folder, newest first."""
    kind = request.match_info["kind"]
    if kind not in SHARED_KINDS:
        return json_reply({"error": "Invalid directory type"}, 400)
    return json_reply(await asyncio.to_thread(request.app[STORE].files.of(owner_of(request)).newest, kind))


ENTRY = obj("t m", t=TEXT, m=TEXT)
SIZE = obj("cols rows", cols=WHOLE, rows=WHOLE)
RAW = obj("entries size", entries=array(ENTRY), size=SIZE)
SUBSCRIBE = obj("clientId", clientId=TEXT, enabled=SWITCH)

ROUTES = (
    Route("GET", "/internal/logs", logs, "once", admin=True, answers={200: json_of("The log.", TEXT)}),
    Route("GET", "/internal/logs/raw", raw_logs, "once", admin=True, answers={200: json_of("The log's writes.", RAW)}),
    Route(
        "PATCH", "/internal/logs/subscribe", subscribe, "once", admin=True, body=Body(SUBSCRIBE), answers={200: DONE}
    ),
    Route(
        "GET",
        "/internal/folder_paths",
        folder_paths,
        "once",
        admin=True,
        answers={200: json_of("Folders by key.", table(TEXTS))},
    ),
    Route(
        "GET",
        "/internal/files/{kind}",
        files,
        "once",
        answers={200: json_of("Names.", TEXTS), 400: json_of("No such folder.", obj("error", error=TEXT))},
    ),
)
