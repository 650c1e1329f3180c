"""The OpenAPI 3.1 document, made from the routes themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

from limner.server.keys import Route
from limner.server.schemas import BAD, JSON, NO_KEY, REFUSED, TEXT, TOO_LARGE, Answer

VARIABLE = re.compile(r"\{(\w+)(?::[^}]*)?\}")
ABOUT = """Every path answers as it is and below `/api`, unless its own servers say otherwise. GET answers HEAD too.
The socket at `/ws` is a WebSocket; its messages are not part of this document."""
SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "query": {"type": "apiKey", "in": "query", "name": "api_key"},
    "cookie": {"type": "apiKey", "in": "cookie", "name": "limner_api_key"},
}


def document(routes: Iterable[Route], version: str) -> dict[str, Any]:
    """The document of these routes."""
    paths: dict[str, Any] = {}
    for route in routes:
        item = paths.setdefault(plain_path(route.path), {})
        item[route.method.lower()] = operation(route)
        if route.mount == "once":
            item["servers"] = [{"url": "/"}]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Limner", "version": version, "description": ABOUT, "license": LICENSE},
        "servers": [{"url": "/api"}, {"url": "/"}],
        "paths": paths,
        "components": {"securitySchemes": SECURITY},
        # The empty requirement: without --api-key nothing is asked for.
        "security": [{}, *({name: []} for name in SECURITY)],
    }


LICENSE = {"name": "Apache-2.0", "identifier": "Apache-2.0"}


def plain_path(path: str) -> str:
    """A path as OpenAPI writes it: `{name:.*}` becomes `{name}`."""
    return VARIABLE.sub(r"{\1}", path)


def operation(route: Route) -> dict[str, Any]:
    """One method of one path."""
    prose = inspect.cleandoc(route.handler.__doc__ or "").split("\n\n", 1)
    module = getattr(route.handler, "__module__", "").rpartition(".")[2]
    name = re.sub(r"[^a-z0-9]+", "_", plain_path(route.path).lower()).strip("_")
    made: dict[str, Any] = {
        "operationId": f"{route.method.lower()}_{name}",
        "summary": " ".join((route.summary or prose[0]).split()).rstrip("."),
        "tags": [module],
        "responses": {str(status): _answer(one) for status, one in sorted(all_answers(route).items())},
    }
    about = prose[1:] + ["Where API keys are needed, an administrator's."] * route.admin
    if about:
        made["description"] = "\n\n".join(about)
    parameters = [_parameter(name, "path", TEXT) for name in VARIABLE.findall(route.path)]
    parameters += [_parameter(name, "query", schema) for name, schema in route.query.items()]
    if parameters:
        made["parameters"] = parameters
    if route.body is not None:
        content = {route.body.type: {"schema": route.body.schema}}
        made["requestBody"] = {"content": content, "required": route.body.required}
    return made


def all_answers(route: Route) -> dict[int, Answer]:
    """What a route may answer, with what any request may be told at the door."""
    found = {**route.answers, 401: NO_KEY}
    found.setdefault(403, REFUSED)
    if route.body is not None:
        found.setdefault(400, BAD)
        found.setdefault(413, TOO_LARGE)
    return found


def _parameter(name: str, place: str, schema: Any) -> dict[str, Any]:
    plain = {key: value for key, value in schema.items() if key not in ("description", "required")}
    made = {"name": name, "in": place, "required": place == "path" or bool(schema.get("required")), "schema": plain}
    return {**made, "description": schema["description"]} if "description" in schema else made


def _answer(answer: Answer) -> dict[str, Any]:
    made: dict[str, Any] = {"description": answer.text}
    if answer.schema is not None:
        made["content"] = {answer.type: {"schema": answer.schema} if answer.type == JSON else {}}
    return made
