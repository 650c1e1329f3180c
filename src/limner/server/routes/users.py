"""Users, their settings and their files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiohttp.web import FileResponse, HTTPUnauthorized, Request, Response, StreamResponse

from limner.errors import BadInput, Forbidden, NotFound
from limner.server.inert import inert
from limner.server.keys import STORE, Route, owner_of
from limner.server.replies import file_type, flag, json_reply, read_json, read_object, text_reply
from limner.server.schemas import (
    ANY,
    BYTES,
    DONE,
    NUMBER,
    OBJECT,
    SWITCH,
    TEXT,
    WHOLE,
    Answer,
    Body,
    array,
    bytes_of,
    either,
    json_of,
    obj,
    table,
    words,
)
from limner.store import AlreadyThere, Users

STYLE = "user.css"
EMPTY = {STYLE: "", "comfy.templates.json": "[]", "workflows/.index.json": '{"favorites":[]}'}
"""Files that the front end always asks for. Until there is one it is empty: a browser reports each 404 as a fault."""
STYLES = frozenset(("text/css",))
EMPTY_FOLDERS = ("workflows", "subgraphs")
"""The same of folders."""


def who(request: Request) -> tuple[Users, str]:
    """The users, and which of them asks: its API key, else the header `comfy-user`. Raises Forbidden for none."""
    users, owner = request.app[STORE].users, owner_of(request)
    if owner is not None:
        return users, f"key-{owner}"
    return users, users.user(request.headers.get("comfy-user"))


async def describe(request: Request) -> Response:
    """Who there is."""
    return json_reply(request.app[STORE].users.describe())


async def add(request: Request) -> Response:
    """Make a user; answers the id."""
    body = await read_object(request)
    try:
        return json_reply(request.app[STORE].users.add(body.get("username", "")))
    except BadInput as error:
        return json_reply({"error": str(error)}, 400)


# Settings


def settings_of(request: Request) -> tuple[Users, str]:
    """As `who`, but an unknown user is told so with 401."""
    try:
        return who(request)
    except Forbidden as error:
        raise HTTPUnauthorized(text=str(error)) from None


async def all_settings(request: Request) -> Response:
    """A user's settings."""
    users, user = settings_of(request)
    return json_reply(users.settings(user))


async def one_setting(request: Request) -> Response:
    """One setting, null when it was never set."""
    users, user = settings_of(request)
    return json_reply(users.settings(user).get(request.match_info["id"]))


async def merge_settings(request: Request) -> Response:
    """Set several."""
    users, user = settings_of(request)
    await asyncio.to_thread(users.update_settings, user, await read_object(request))
    return Response()


async def set_one(request: Request) -> Response:
    """Set one to any JSON value."""
    users, user = settings_of(request)
    await asyncio.to_thread(users.update_settings, user, {request.match_info["id"]: await read_json(request)})
    return Response()


# Files


def named(request: Request, key: str = "file") -> str:
    """A file name from the path. Some clients encode its slashes twice."""
    name = request.match_info[key]
    return unquote(name) if "%" in name else name


async def list_files(request: Request) -> Response:
    """Files of one of the user's folders."""
    users, user = who(request)
    folder = request.query.get("dir", "")
    if not folder:
        return text_reply("Directory not provided", 400)
    recurse, full_info, split = (flag(request, key) for key in ("recurse", "full_info", "split"))
    try:
        found = await asyncio.to_thread(
            lambda: users.list(user, folder, recurse=recurse, full_info=full_info, split=split)
        )
    except Forbidden:
        return text_reply("Invalid directory", 403)
    except NotFound:
        return json_reply([]) if folder.rstrip("/") in EMPTY_FOLDERS else text_reply("Directory not found", 404)
    return json_reply(found)


async def tree(request: Request) -> Response:
    """Folders and files below one of the user's folders."""
    users, user = who(request)
    try:
        return json_reply(await asyncio.to_thread(users.tree, user, unquote(request.query.get("path", ""))))
    except NotFound as error:
        return text_reply(str(error), 404)
    except Forbidden:
        return text_reply("Invalid directory", 403)


async def read(request: Request) -> StreamResponse:
    """A user's file."""
    users, user = who(request)
    name = named(request)
    path = users.path(user, name)
    if name in EMPTY and not path.is_file():
        return Response(text=EMPTY[name], content_type=file_type(name))
    return FileResponse(path if path.is_file() else users.file(user, name), headers=inert(path.name, STYLES))


async def style(request: Request) -> StreamResponse:
    """The user's own style sheet."""
    users, user = who(request)
    path = users.path(user, STYLE)
    headers = inert(STYLE, STYLES)
    return (
        FileResponse(path, headers=headers)
        if path.is_file()
        else Response(text=EMPTY[STYLE], content_type=file_type(STYLE))
    )


async def write(request: Request) -> Response:
    """Keep the body as a user's file."""
    users, user = who(request)
    name, data, overwrite = named(request), await request.read(), _overwrite(request)
    return await _changed(request, users, user, lambda: users.write(user, name, data, overwrite))


async def delete(request: Request) -> Response:
    """Delete a user's file."""
    users, user = who(request)
    await asyncio.to_thread(users.delete, user, named(request))
    return Response(status=204)


async def move(request: Request) -> Response:
    """Rename a user's file."""
    users, user = who(request)
    source, target, overwrite = named(request), named(request, "target"), _overwrite(request)
    return await _changed(request, users, user, lambda: users.move(user, source, target, overwrite))


def _overwrite(request: Request) -> bool:
    return request.query.get("overwrite", "true").lower() != "false"


async def _changed(request: Request, users: Users, user: str, change: Any) -> Response:
    """Do it, and answer the file's name, or with `full_info` what is known of it."""
    try:
        path: Path = await asyncio.to_thread(change)
    except AlreadyThere:
        return text_reply("File already exists", 409)
    except OSError as error:
        raise BadInput("The file cannot be written.", why=f"{error.strerror}.") from error
    return json_reply(users.info(user, path) if flag(request, "full_info") else users.relative(user, path))


WHO = either(
    obj("storage migrated", storage=TEXT, migrated=SWITCH),
    obj("storage users", storage=TEXT, users=table(TEXT)),
)
NO_USER = Answer("There is no such user.", TEXT, "text/plain")
FILE_INFO = obj("path size modified created", path=TEXT, size=WHOLE, modified=NUMBER, created=NUMBER)
LISTED = json_of("Names, lists of their parts (split), or what is known of each (full_info).", array(ANY))
TREE = array(obj("name path type", name=TEXT, path=TEXT, type=words("file", "directory")))
CHANGED = json_of("Its name, or with full_info what is known of it.", either(TEXT, FILE_INFO))
THERE = Answer("There is such a file, and overwrite=false.", TEXT, "text/plain")
SAID = Answer("What is wrong.", ANY, "*/*")
OVERWRITE = {"overwrite": {**words("true", "false"), "default": "true"}, "full_info": SWITCH}
LIST = {"dir": TEXT, "recurse": SWITCH, "full_info": SWITCH, "split": SWITCH}

ROUTES = (
    Route("GET", "/users", describe, answers={200: json_of("Who there is.", WHO)}),
    Route(
        "POST",
        "/users",
        add,
        body=Body(obj("username", username=TEXT)),
        answers={200: json_of("The id.", TEXT), 400: json_of("It cannot be made.", obj("error", error=TEXT))},
    ),
    Route("GET", "/settings", all_settings, answers={200: json_of("Settings by id.", OBJECT), 401: NO_USER}),
    Route("POST", "/settings", merge_settings, body=Body(OBJECT), answers={200: DONE, 401: NO_USER}),
    Route("GET", "/settings/{id}", one_setting, answers={200: json_of("The value, or null.", ANY), 401: NO_USER}),
    Route("POST", "/settings/{id}", set_one, body=Body(ANY), answers={200: DONE, 401: NO_USER}),
    Route("GET", "/user.css", style, answers={200: bytes_of("The style sheet.")}),
    Route("GET", "/userdata", list_files, query=LIST, answers={200: LISTED, 400: SAID, 403: SAID, 404: SAID}),
    Route(
        "GET",
        "/v2/userdata",
        tree,
        query={"path": TEXT},
        answers={200: json_of("Folders and files.", TREE), 400: SAID, 403: SAID, 404: SAID},
    ),
    Route("GET", "/userdata/{file}", read, answers={200: bytes_of("The file."), 404: SAID}),
    Route(
        "POST",
        "/userdata/{file}",
        write,
        body=Body(BYTES, "application/octet-stream", required=False),
        query=OVERWRITE,
        answers={200: CHANGED, 409: THERE},
    ),
    Route("DELETE", "/userdata/{file}", delete, answers={204: DONE, 404: SAID}),
    Route(
        "POST",
        "/userdata/{file}/move/{target}",
        move,
        query=OVERWRITE,
        answers={200: CHANGED, 400: SAID, 404: SAID, 409: THERE},
    ),
)
