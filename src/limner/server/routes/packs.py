"""What node packs bring besides nodes: example workflows, translations, sub-graphs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from aiohttp.web import HTTPNotFound, Request, Response, StreamResponse

from limner.server.frontend import send_below
from limner.server.keys import SETTINGS, STORE, Route
from limner.server.packs import PACKS
from limner.server.replies import json_reply
from limner.server.schemas import (
    MISSING,
    OBJECT,
    SWITCH,
    TEXT,
    TEXTS,
    WHOLE,
    array,
    bytes_of,
    json_of,
    nullable,
    obj,
    table,
)

log = logging.getLogger(__name__)

EXAMPLES = ("example_workflows", "example", "examples", "workflow", "workflows")
LOCALE_FILES = {
    "main.json": None,
    "nodeDefs.json": "nodeDefs",
    "commands.json": "commands",
    "settings.json": "settings",
}


def packs(request: Request) -> list[Path]:
    """The folders of the packs that the settings allow, sorted by path."""
    settings = request.app[SETTINGS]
    found = []
    for root in request.app[STORE].folders.roots("custom_nodes"):
        for folder in root.iterdir() if root.is_dir() else ():
            allowed = not settings.disable_all_custom_nodes or folder.name in settings.whitelist_custom_nodes
            named = not folder.name.endswith(".disabled") and folder.name != "__pycache__"
            if allowed and named and not folder.name.startswith(".") and folder.is_dir():
                found.append(folder)
    return sorted(found)


async def templates(request: Request) -> Response:
    """Names of example workflows by pack."""
    return json_reply(await asyncio.to_thread(_templates, request))


def _templates(request: Request) -> dict[str, list[str]]:
    found = {
        pack.name: [file.stem for example in EXAMPLES for file in sorted((pack / example).glob("*.json"))]
        for pack in packs(request)
    }
    return {name: stems for name, stems in found.items() if stems}


async def template(request: Request) -> StreamResponse:
    """A file of a pack's example workflows."""
    name, path = request.match_info["pack"], request.match_info["path"]
    for pack in await asyncio.to_thread(packs, request):
        if pack.name == name:
            for example in EXAMPLES:
                with contextlib.suppress(HTTPNotFound):
                    return await send_below(pack / example, path)
    raise HTTPNotFound


async def translations(request: Request) -> Response:
    """Translations that packs bring, merged."""
    return json_reply(await asyncio.to_thread(_translations, request))


def _translations(request: Request) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for pack in packs(request):
        for locale in sorted((pack / "locales").glob("*/")):
            for file, key in LOCALE_FILES.items():
                found = _read_object(locale / file)
                if found:
                    merge(merged.setdefault(locale.name, {}), {key: found} if key else found)
    return merged


def _read_object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("The translation %s is left out: %s", file, error)
        return {}
    return found if isinstance(found, dict) else {}


def merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    """Put `more` over `into`: objects are merged, lists joined, anything else replaced."""
    for key, value in more.items():
        old = into.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merge(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            into[key] = old + value
        else:
            into[key] = value


def _subgraphs(request: Request) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    for pack in packs(request):
        for file in sorted((pack / "subgraphs").glob("*.json")):
            key = sha256(("custom_node" + file.absolute().as_posix()).encode()).hexdigest()
            about = {"source": "custom_node", "name": file.stem, "info": {"node_pack": f"custom_nodes.{pack.name}"}}
            yield key, file, about


async def subgraphs(request: Request) -> Response:
    """Sub-graphs that packs bring, without their contents."""
    found = await asyncio.to_thread(lambda: {key: about for key, _, about in _subgraphs(request)})
    return json_reply(found)


async def subgraph(request: Request) -> Response:
    """One sub-graph with its contents, null when it is unknown."""
    return json_reply(await asyncio.to_thread(_subgraph, request, request.match_info["id"]))


def _subgraph(request: Request, wanted: str) -> dict[str, Any] | None:
    for key, file, about in _subgraphs(request):
        if key == wanted:
            return {**about, "data": file.read_text(encoding="utf-8")}
    return None


async def report(request: Request) -> Response:
    """What became of each node pack: nodes, import time, and what went wrong where."""
    return json_reply(dict(request.app[PACKS].report()))


ABOUT = obj("source name info", source=TEXT, name=TEXT, info=obj("node_pack", node_pack=TEXT), data=TEXT)

PROBLEM = obj("what", what=TEXT, type=TEXT, file=TEXT, line=WHOLE, missing=TEXT, advice=TEXT)
PACK = obj("name path state", name=TEXT, path=TEXT, state=TEXT, kinds=TEXTS, problems=array(PROBLEM))
COLLISION = obj("kind kept left_out", kind=TEXT, kept=TEXT, left_out=TEXT)
REPORT = obj("ready packs collisions", ready=SWITCH, packs=array(PACK), collisions=array(COLLISION))

ROUTES = (
    Route("GET", "/packs", report, answers={200: json_of("What became of each node pack.", REPORT)}),
    Route("GET", "/workflow_templates", templates, answers={200: json_of("Names by pack.", table(TEXTS))}),
    Route(
        "GET",
        "/workflow_templates/{pack}/{path:.*}",
        template,
        answers={200: bytes_of("A workflow, or another file of that folder."), 404: MISSING},
    ),
    Route("GET", "/i18n", translations, answers={200: json_of("Translations by language.", table(OBJECT))}),
    Route("GET", "/global_subgraphs", subgraphs, answers={200: json_of("Sub-graphs by id.", table(ABOUT))}),
    Route(
        "GET",
        "/global_subgraphs/{id}",
        subgraph,
        answers={200: json_of("One with `data`, or null.", nullable(ABOUT))},
    ),
)
