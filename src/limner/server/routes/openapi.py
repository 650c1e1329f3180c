"""What there is to ask for, as an OpenAPI document."""

from __future__ import annotations

from aiohttp.web import Request, Response

from limner import __version__
from limner.server.keys import OPENAPI, Route
from limner.server.replies import json_reply
from limner.server.schemas import OBJECT, json_of


async def describe(request: Request) -> Response:
    """This document: OpenAPI 3.1, made from the routes."""
    return json_reply(request.app[OPENAPI](__version__))


ROUTES = (Route("GET", "/openapi.json", describe, answers={200: json_of("The document.", OBJECT)}),)
