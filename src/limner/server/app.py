"""The application: settings, engine and store in, an aiohttp application out."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from limner.server import frontend, routes
from limner.server.auth import for_administrators
from limner.server.devices import describe_devices
from limner.server.features import features
from limner.server.hub import Hub
from limner.server.keys import DEVICES, ENGINE, FRONT_END, HUB, KEYS, LOGS, OPENAPI, SETTINGS, STORE, DeviceProbe, Route
from limner.server.logs import LogRing
from limner.server.metrics import METRICS, Metrics, make_counter
from limner.server.middleware import make_middleware
from limner.server.openapi import document
from limner.server.packs import PACKS, NoPacks, PackSide, make_pack_door
from limner.store.keys import Keys

if TYPE_CHECKING:
    from limner.engine import Engine
    from limner.settings import Settings
    from limner.store import Store


def make_app(
    settings: Settings,
    engine: Engine,
    store: Store,
    *,
    logs: LogRing | None = None,
    devices: DeviceProbe | None = None,
    on_first_client: Callable[[], None] | None = None,
    packs: PackSide | None = None,
) -> web.Application:
    """An application that serves the API, the sockets and the front end. It neither starts nor closes the engine.

    logs: what `/internal/logs` shows. devices: describes the devices for `/system_stats` in place of the probe that
    needs no torch. on_first_client: called once, when the first front end introduces itself on its socket.
    packs: the node packs; the caller starts to load them.

    Raises BadInput when the chosen front end is none.
    """
    keys = Keys(store.files.root("user"), settings.api_key, required=settings.api_key is not None)
    keys.required()  # a file that cannot be read is told now, not to whoever asks first
    metrics = Metrics()
    app = web.Application(
        middlewares=[make_counter(metrics), make_middleware(settings, keys), make_pack_door()],
        client_max_size=settings.max_upload_bytes,
    )
    app[METRICS] = metrics
    app[SETTINGS] = settings
    app[ENGINE] = engine
    app[STORE] = store
    app[LOGS] = logs or LogRing()
    app[DEVICES] = devices or (lambda: describe_devices(settings))
    base = None if settings.base_directory is None else Path(settings.base_directory).expanduser()
    app[FRONT_END] = frontend.find_front_end(settings.front_end_root, settings.front_end_version, base)
    app[KEYS] = keys
    app[OPENAPI] = describe_routes
    app[HUB] = hub = Hub(engine, app[LOGS], features(settings), on_first_client)
    app[PACKS] = packs or NoPacks()
    mount(app)

    async def start(_: web.Application) -> None:
        hub.start()
        app[PACKS].attach(asyncio.get_running_loop(), hub)

    async def stop(_: web.Application) -> None:
        await hub.stop()

    app.on_startup.append(start)
    app.on_shutdown.append(stop)
    return app


def all_routes() -> Iterator[Route]:
    """The `ROUTES` of every file in the folder `routes`."""
    for module in sorted(pkgutil.iter_modules(routes.__path__), key=lambda one: one.name):
        yield from importlib.import_module(f"{routes.__name__}.{module.name}").ROUTES


def describe_routes(version: str) -> dict[str, Any]:
    """The OpenAPI document of every route."""
    return document(all_routes(), version)


def mount(app: web.Application) -> None:
    """Add every route, below `/api` first and the front end's files last, because those match any path."""
    found = list(all_routes())
    for prefix in ("/api", ""):
        for route in found:
            if route.mount == "both" or not prefix:
                _add(app, route, prefix)
    for path in ("/", "/api/"):
        app.router.add_get(path, frontend.index)
    app.router.add_get("/docs/{path:.*}", frontend.docs)
    app.router.add_get("/{path:.*}", frontend.file)


def _add(app: web.Application, route: Route, prefix: str) -> None:
    handler = for_administrators(route.handler) if route.admin else route.handler
    if route.method == "GET":
        # A socket cannot be opened with HEAD.
        app.router.add_get(prefix + route.path, handler, allow_head=route.path != "/ws")
    else:
        app.router.add_route(route.method, prefix + route.path, handler)
