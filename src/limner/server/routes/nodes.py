"""What nodes there are."""

from __future__ import annotations

from aiohttp.web import Request, Response

from limner.server.keys import ENGINE, Route, owner_of
from limner.server.replies import json_reply
from limner.server.schemas import OBJECT, array, json_of, table


async def all_kinds(request: Request) -> Response:
    """Every node kind's description."""
    return json_reply(request.app[ENGINE].object_info_bytes(owner_of(request)))


async def one_kind(request: Request) -> Response:
    """One node kind's description, {} when it is unknown."""
    return json_reply(request.app[ENGINE].object_info(request.match_info["kind"], owner_of(request)))


async def replacements(_: Request) -> Response:
    """Kinds that stand in for others: none."""
    return json_reply({})


KINDS = json_of("Descriptions by kind; {} when it is unknown.", table(OBJECT))
REPLACEMENTS = json_of("Replacements by old kind.", table(array(OBJECT)))

ROUTES = (
    Route("GET", "/object_info", all_kinds, answers={200: KINDS}),
    Route("GET", "/object_info/{kind}", one_kind, answers={200: KINDS}),
    Route("GET", "/node_replacements", replacements, answers={200: REPLACEMENTS}),
)
