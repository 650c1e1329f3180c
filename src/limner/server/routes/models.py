"""Model folders: what is in them, their files' metadata, and pictures of them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import mimetypes
import os
import struct
from pathlib import Path
from typing import Any

from aiohttp.web import HTTPNotFound, Request, Response

from limner.errors import LimnerError
from limner.server.keys import STORE, Route
from limner.server.replies import json_reply
from limner.server.schemas import MISSING, NUMBER, OBJECT, TEXT, TEXTS, WHOLE, array, bytes_of, json_of, obj
from limner.store import ModelFolders, media
from limner.store.paths import resolve_inside

LARGEST_HEADER = 1 << 20
HIDDEN_FOLDERS = ("configs", "custom_nodes")


async def names(request: Request) -> Response:
    """The folder keys in order."""
    return json_reply(request.app[STORE].folders.names())


async def files(request: Request) -> Response:
    """The files of a folder."""
    folders, key = request.app[STORE].folders, request.match_info["folder"]
    _known(folders, key)
    return json_reply(await asyncio.to_thread(folders.list, key))


def _known(folders: ModelFolders, key: str) -> None:
    # Old names of folders still find files, but are no folders of their own.
    if key not in folders.names():
        raise HTTPNotFound


async def embeddings(request: Request) -> Response:
    """Names of embeddings, as prompts write them: without extension."""
    listed = await asyncio.to_thread(request.app[STORE].folders.list, "embeddings")
    return json_reply([os.path.splitext(name)[0] for name in listed])  # noqa: PTH122 - keeps the separators


async def folders_with_roots(request: Request) -> Response:
    """The folder keys with their places on disk."""
    folders = request.app[STORE].folders
    shown = [key for key in folders.names() if key not in HIDDEN_FOLDERS]
    return json_reply([{"name": key, "folders": [str(root) for root in folders.roots(key)]} for key in shown])


async def file_infos(request: Request) -> Response:
    """The files of a folder with size and times."""
    folders, key = request.app[STORE].folders, request.match_info["folder"]
    _known(folders, key)
    return json_reply(await asyncio.to_thread(folders.infos, key))


async def preview(request: Request) -> Response:
    """A picture of a model, as WEBP: a picture of the same name beside the file, else one in its metadata."""
    folders, key = request.app[STORE].folders, request.match_info["folder"]
    _known(folders, key)
    index = request.match_info["path_index"]
    roots = folders.roots(key)
    if not index.isdecimal() or int(index[:6]) >= len(roots):
        raise HTTPNotFound
    path = resolve_inside(roots[int(index[:6])], request.match_info["filename"], follow_links=True)
    picture = await asyncio.to_thread(_preview, path)
    if picture is None:
        raise HTTPNotFound
    return Response(body=picture, content_type="image/webp")


def _preview(path: Path) -> bytes | None:
    if not path.parent.is_dir():
        return None
    for candidate in sorted(path.parent.glob(_escape(path.stem) + ".*")):
        kind = mimetypes.guess_type(candidate.name)[0] or ""
        if candidate.stem in (path.stem, path.stem + ".preview") and kind.startswith("image/"):
            return _webp(candidate)
    covers = (safetensors_metadata(path) or {}).get("ssmd_cover_images")
    try:
        listed = json.loads(covers) if covers else []
        return _webp(base64.b64decode(listed[0])) if listed else None
    except (ValueError, KeyError, TypeError, binascii.Error):
        return None


def _webp(source: media.Source) -> bytes | None:
    try:
        return media.preview(source, "webp;90")[0]
    except LimnerError:
        return None


def _escape(stem: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in stem)


def safetensors_metadata(path: Path) -> dict[str, Any] | None:
    """The `__metadata__` of a safetensors file; None when it has none, or its header is over 1 MiB or damaged."""
    if path.suffix.lower() != ".safetensors":
        return None
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > LARGEST_HEADER:
                return None
            found = json.loads(file.read(size))
    except (OSError, ValueError, struct.error, RecursionError):
        return None
    metadata = found.get("__metadata__") if isinstance(found, dict) else None
    return metadata if isinstance(metadata, dict) else None


async def metadata(request: Request) -> Response:
    """The `__metadata__` of a safetensors file."""
    try:
        path = request.app[STORE].folders.path(request.match_info["folder"], request.query.get("filename", ""))
    except LimnerError:
        raise HTTPNotFound from None
    found = await asyncio.to_thread(safetensors_metadata, path)
    if not found:
        raise HTTPNotFound
    return json_reply(found)


NAMES = json_of("Names.", TEXTS)
FOLDERS = array(obj("name folders", name=TEXT, folders=TEXTS))
INFO = obj(
    "name pathIndex modified created size", name=TEXT, pathIndex=WHOLE, modified=NUMBER, created=NUMBER, size=WHOLE
)
PREVIEW = "/experiment/models/preview/{folder}/{path_index}/{filename:.*}"

ROUTES = (
    Route("GET", "/models", names, answers={200: NAMES}),
    Route("GET", "/models/{folder}", files, answers={200: NAMES, 404: MISSING}),
    Route("GET", "/embeddings", embeddings, answers={200: NAMES}),
    Route(
        "GET",
        "/view_metadata/{folder}",
        metadata,
        query={"filename": TEXT},
        answers={200: json_of("The `__metadata__`.", OBJECT), 404: MISSING},
    ),
    Route("GET", "/experiment/models", folders_with_roots, answers={200: json_of("Folders.", FOLDERS)}),
    Route(
        "GET",
        "/experiment/models/{folder}",
        file_infos,
        answers={200: json_of("Files.", array(INFO)), 404: MISSING},
    ),
    Route("GET", PREVIEW, preview, answers={200: bytes_of("A WEBP picture."), 404: MISSING}),
)
