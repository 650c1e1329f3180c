"""Workflows to begin with: those that ship with Limner, and those of the templates package if it is installed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from aiohttp.web import HTTPNotFound, Request, Response, StreamResponse

from limner.server.frontend import send_below
from limner.server.keys import FRONT_END, Route
from limner.server.replies import json_reply
from limner.server.schemas import MISSING, OBJECT, array, bytes_of, json_of

WORKFLOWS = Path(__file__).parents[2] / "assets" / "workflows"
DRAWING = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 320 240">
<rect width="320" height="240" fill="#2b3a4a"/>
<circle cx="86" cy="120" r="26" fill="#d9a441"/><path d="M112 120h96" stroke="#d9a441" stroke-width="6"/>
<rect x="208" y="94" width="52" height="52" rx="8" fill="#c65d4b"/>
<text x="160" y="205" fill="#fff" font-family="sans-serif" font-size="22" text-anchor="middle">{title}</text></svg>
"""


def own() -> list[dict[str, Any]]:
    """The front end's entries for the workflows that ship with Limner: a picture `NAME-1.webp` beside one is shown."""
    entries = []
    for file in sorted(WORKFLOWS.glob("*.json")):
        pictured = file.with_name(f"{file.stem}-1.webp").is_file()
        about = {"name": file.stem, "title": title_of(file.stem), "description": title_of(file.stem)}
        entries.append({**about, "mediaType": "image", "mediaSubtype": "webp" if pictured else "svg"})
    return entries


def title_of(stem: str) -> str:
    """`text_to_image` → `Text to image`."""
    return stem.replace("_", " ").capitalize()


async def index(request: Request) -> Response:
    """Every category with its workflows."""
    return json_reply(await asyncio.to_thread(_index, request.app[FRONT_END].templates))


def _index(package: Path | None) -> list[Any]:
    category = {"moduleName": "default", "title": "Limner", "type": "image", "isEssential": True, "templates": own()}
    others = []
    if package is not None and (package / "index.json").is_file():
        others = json.loads((package / "index.json").read_bytes())
    return [category, *others]


async def file(request: Request) -> StreamResponse:
    """A workflow, a picture of one, or another file of the templates package."""
    path = request.match_info["path"]
    for root in (WORKFLOWS, request.app[FRONT_END].templates):
        with contextlib.suppress(HTTPNotFound):
            return await send_below(root, path)
    if path in {f"{entry['name']}-1.svg" for entry in own()}:
        title = escape(title_of(path.removesuffix("-1.svg")))
        return Response(text=DRAWING.format(title=title), content_type="image/svg+xml")
    if path.startswith("index"):
        # Translations and logos: the front end takes what is missing from `index.json`, and reports 404s as faults.
        return json_reply({} if path == "index_logo.json" else _index(None))
    raise HTTPNotFound


INDEX = json_of("Categories with their workflows.", array(OBJECT))

ROUTES = (
    Route("GET", "/templates/index.json", index, mount="once", answers={200: INDEX}),
    Route(
        "GET",
        "/templates/{path:.*}",
        file,
        mount="once",
        answers={200: bytes_of("A workflow, a picture of one, or {}."), 404: MISSING},
    ),
)
