"""Files: pictures in, and everything out of the input, output and temp folders."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp.web import FileField, FileResponse, HTTPNotFound, Request, Response, StreamResponse

from limner.errors import BadInput, Forbidden, NotFound
from limner.server.inert import disposition, inert
from limner.server.keys import STORE, Route, owner_of
from limner.server.replies import Form, json_reply, parse_json, read_form
from limner.server.schemas import (
    BAD,
    BYTES,
    FORM,
    MISSING,
    REFUSED,
    TEXT,
    TOLD_MISSING,
    Body,
    bytes_of,
    json_of,
    obj,
    words,
)
from limner.store import media
from limner.store.files import SHARED_KINDS, split_annotation


async def view(request: Request) -> StreamResponse:
    """A file, or a preview or one channel of a picture."""
    query = request.query
    path = locate(request, query.get("filename"), query.get("type", "output"), query.get("subfolder", ""))
    channel = query.get("channel")
    headers = {"Content-Disposition": disposition(path.name)}
    if "preview" in query:
        body, found = await asyncio.to_thread(media.preview, path, query["preview"], channel or "")
        return Response(body=body, content_type=found, headers=headers)
    if channel in ("rgb", "a"):
        body = await asyncio.to_thread(media.channel_png, path, channel)
        return Response(body=body, content_type="image/png", headers=headers)
    return FileResponse(path, headers=inert(path.name))


def locate(request: Request, filename: str | None, kind: str, subfolder: str) -> Path:
    """The file that a `/view` query names.

    Raises HTTPNotFound when it is not there, BadInput for a name or folder kind that cannot be, Forbidden for a
    sub-folder outside.
    """
    if filename is None:
        raise HTTPNotFound
    name, annotated = split_annotation(filename)
    kind = annotated or kind
    if not name or name.startswith("/") or ".." in name:
        raise BadInput(f"{filename!r:.100} is not a file name.", do="Give folders in `subfolder`.")
    check_kind(kind)
    path = request.app[STORE].files.of(owner_of(request)).resolve(kind, subfolder, name.rpartition("/")[2])
    if not path.is_file():
        raise HTTPNotFound
    return path


def check_kind(kind: str) -> str:
    """The kind of folder itself. Raises BadInput unless requests may reach folders of that kind."""
    if kind not in SHARED_KINDS:
        raise BadInput(f"There is no folder {kind!r:.40}.", do=f"Use one of {', '.join(SHARED_KINDS)}.")
    return kind


async def upload_image(request: Request) -> Response:
    """Keep an uploaded file, of any type."""
    form = await read_form(request)
    return await keep(request, form, await asyncio.to_thread(uploaded(form).file.read))


async def upload_mask(request: Request) -> Response:
    """Keep a picture with another transparency: `original_ref` names the picture, the upload brings the mask."""
    form = await read_form(request)
    reference = form.get("original_ref")
    if not isinstance(reference, str):
        raise BadInput("`original_ref` is missing.", why="It names the picture that the mask belongs to.")
    original = locate_original(request, reference)
    mask = await asyncio.to_thread(uploaded(form).file.read)
    data = await asyncio.to_thread(media.combine_mask, original, mask)
    return await keep(request, form, data)


def locate_original(request: Request, reference: str) -> Path:
    """The picture that the JSON of `original_ref` names."""
    named = parse_json(reference.encode("utf-8", "replace"))
    if not isinstance(named, dict) or not isinstance(named.get("filename"), str):
        raise BadInput("`original_ref` names no file.", do='Send {"filename": …, "subfolder": …, "type": …}.')
    name = named["filename"]
    try:
        return locate(request, name, str(named.get("type", "output")), str(named.get("subfolder") or ""))
    except HTTPNotFound:
        raise NotFound(f"There is no file {name!r:.100}.", why="`original_ref` names it.") from None


def uploaded(form: Form) -> FileField:
    """The file of an upload form. Raises BadInput when there is none."""
    field = form.get("image")
    if not isinstance(field, FileField) or not field.filename:
        raise BadInput("There is no file in the form.", do="Send it as the field `image`, with a file name.")
    return field


async def keep(request: Request, form: Form, data: bytes) -> Response:
    """Write an upload where its form says, and answer where it is now."""
    kind = check_kind(_text(form, "type") or "input")
    subfolder = _text(form, "subfolder")
    overwrite = _text(form, "overwrite").lower() in ("true", "1")
    # Some browsers send the path on the visitor's machine.
    name = (uploaded(form).filename or "").replace("\\", "/").rpartition("/")[2]
    files = request.app[STORE].files.of(owner_of(request))
    try:
        final = await asyncio.to_thread(files.save_upload, kind, subfolder.replace("\\", "/"), name, data, overwrite)
    except Forbidden as error:
        raise BadInput(error.what, error.why, error.do) from None
    except OSError as error:
        raise BadInput(f"The file {name!r:.100} cannot be written.", why=f"{error.strerror}.") from error
    return json_reply({"name": final, "subfolder": subfolder, "type": kind})


def _text(form: Form, key: str) -> str:
    value = form.get(key, "")
    return value if isinstance(value, str) else ""


UPLOAD = obj(
    "image", image=BYTES, overwrite=TEXT, type={**words("input", "temp", "output"), "default": "input"}, subfolder=TEXT
)
KEPT = json_of("Where the file is now.", obj("name subfolder type", name=TEXT, subfolder=TEXT, type=TEXT))
VIEW = {
    "filename": {**TEXT, "description": "The name, which may end with ` [output]`, ` [input]` or ` [temp]`."},
    "type": {**words("output", "input", "temp"), "default": "output"},
    "subfolder": TEXT,
    "preview": {**TEXT, "description": "`webp` or `jpeg`, with a quality: `webp;90`."},
    "channel": words("rgb", "a", "rgba"),
}

ROUTES = (
    Route(
        "GET",
        "/view",
        view,
        query=VIEW,
        answers={
            200: bytes_of("The file, a preview of it, or one channel."),
            206: bytes_of("A part of the file."),
            416: bytes_of("The file has no such part."),
            400: BAD,
            403: REFUSED,
            404: MISSING,
        },
    ),
    Route("POST", "/upload/image", upload_image, body=Body(UPLOAD, FORM), answers={200: KEPT}),
    Route(
        "POST",
        "/upload/mask",
        upload_mask,
        body=Body({**UPLOAD, "properties": {**UPLOAD["properties"], "original_ref": TEXT}}, FORM),
        answers={200: KEPT, 404: TOLD_MISSING},
    ),
)
