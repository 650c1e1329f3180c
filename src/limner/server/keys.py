"""What a handler may reach through its request's application, and a route as a value."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web

from limner.server.schemas import ANY, Answer, Body, Schema

if TYPE_CHECKING:
    from limner.engine import Engine
    from limner.server.frontend import FrontEnd
    from limner.server.hub import Hub
    from limner.server.logs import LogRing
    from limner.settings import Settings
    from limner.store import Store
    from limner.store.keys import Keys

ANYTHING = Answer("A value.", ANY)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
DeviceProbe = Callable[[], list[dict[str, Any]]]
"""Describes the devices for `/system_stats`: name, type, index, and bytes as vram_total, vram_free, torch_vram_…."""


@dataclass(frozen=True)
class Route:
    """One path and what answers it.

    path: as aiohttp writes it, `{name}` for a segment. mount: `both` answers at the path and below `/api`, `once` at
    the path alone. A GET route answers HEAD too. admin: where API keys are needed, only an administrator's will do.

    The rest is for the OpenAPI document, and held against the server by tests. summary: in place of the first
    paragraph of the handler's docstring. body: what the request brings. query: each parameter's schema. answers: what
    each status means, beside those that any request may be told (401 and 403; with a body 400 and 413).
    """

    method: str
    path: str
    handler: Handler
    mount: Literal["both", "once"] = "both"
    admin: bool = False
    summary: str = ""
    body: Body | None = None
    query: Mapping[str, Schema] = field(default_factory=dict)
    answers: Mapping[int, Answer] = field(default_factory=lambda: {200: ANYTHING})


@dataclass(frozen=True)
class Asker:
    """Who asks. owner: the name of the API key, None for an administrator's and where no keys are needed."""

    owner: str | None = None
    admin: bool = True


ASKER: Any = web.RequestKey("asker", Asker) if hasattr(web, "RequestKey") else "asker"


def owner_of(request: web.Request) -> str | None:
    """Whose jobs and files the request reaches: its API key's, or with None everyone's."""
    asker: Asker = request[ASKER]
    return asker.owner


ENGINE: web.AppKey[Engine] = web.AppKey("engine")
STORE: web.AppKey[Store] = web.AppKey("store")
KEYS: web.AppKey[Keys] = web.AppKey("keys")
SETTINGS: web.AppKey[Settings] = web.AppKey("settings")
HUB: web.AppKey[Hub] = web.AppKey("hub")
LOGS: web.AppKey[LogRing] = web.AppKey("logs")
FRONT_END: web.AppKey[FrontEnd] = web.AppKey("front_end")
DEVICES: web.AppKey[DeviceProbe] = web.AppKey("devices")
OPENAPI: web.AppKey[Callable[[str], dict[str, Any]]] = web.AppKey("openapi")
