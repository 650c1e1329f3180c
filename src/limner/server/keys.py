"""What a handler may reach through its request's application, and a route as a value."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web

if TYPE_CHECKING:
    from limner.engine import Engine
    from limner.server.frontend import FrontEnd
    from limner.server.hub import Hub
    from limner.server.logs import LogRing
    from limner.settings import Settings
    from limner.store import Store

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
DeviceProbe = Callable[[], list[dict[str, Any]]]
"""Describes the devices for `/system_stats`: name, type, index, and bytes as vram_total, vram_free, torch_vram_…."""


@dataclass(frozen=True)
class Route:
    """One path and what answers it.

    path: as aiohttp writes it, `{name}` for a segment. mount: `both` answers at the path and below `/api`, `once` at
    the path alone. A GET route answers HEAD too.
    """

    method: str
    path: str
    handler: Handler
    mount: Literal["both", "once"] = "both"


ENGINE: web.AppKey[Engine] = web.AppKey("engine")
STORE: web.AppKey[Store] = web.AppKey("store")
SETTINGS: web.AppKey[Settings] = web.AppKey("settings")
HUB: web.AppKey[Hub] = web.AppKey("hub")
LOGS: web.AppKey[LogRing] = web.AppKey("logs")
FRONT_END: web.AppKey[FrontEnd] = web.AppKey("front_end")
DEVICES: web.AppKey[DeviceProbe] = web.AppKey("devices")
