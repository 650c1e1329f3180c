"""`server`: PromptServer, the way packs reach sockets, routes and the queue."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import struct
import threading
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import aiohttp
from aiohttp import web

from limner.compat.homes.execution import PromptQueue
from limner.compat.host import Host, current
from limner.engine.events import Event, Preview
from limner.engine.previews import encode_preview
from limner.engine.queue import socket_id
from limner.errors import LimnerError
from limner.graph import CURRENT_RUN

log = logging.getLogger(__name__)

__all__ = [
    "BinaryEventTypes",
    "PromptServer",
    "UserManager",
    "aiohttp",
    "asyncio",
    "json",
    "logging",
    "struct",
    "uuid",
    "web",
]

OnPrompt = Callable[[dict[str, Any]], dict[str, Any]]


class BinaryEventTypes:
    """Event ids of binary frames."""

    PREVIEW_IMAGE = 1
    UNENCODED_PREVIEW_IMAGE = 2
    TEXT = 3
    PREVIEW_IMAGE_WITH_METADATA = 4


class Wire(Protocol):
    """The sockets, as the server has them. Every method is for the event loop."""

    def send(self, kind: str, data: Any, sid: str | None) -> None:
        """Send a text frame to one client, or to all."""

    def send_bytes(self, data: bytes, sid: str | None) -> None:
        """Send a binary frame to one client, or to all."""

    def sockets(self) -> Mapping[str, Any]:
        """The open sockets by client id."""

    def flags(self, sid: str) -> Mapping[str, Any]:
        """What a client said it can do."""


@dataclass(frozen=True, slots=True)
class PackMessage(Event):
    """A message of a pack in its place among the engine's events. send: what sends it, on the event loop."""

    type: ClassVar[str] = "pack_message"
    send: Callable[[], None] = lambda: None


class _Instance(type):
    """Gives `PromptServer.instance`: the one of the host that is installed."""

    @property
    def instance(cls) -> PromptServer:
        """The server that packs speak to."""
        host = current()
        if host.server is None:
            host.server = cls(None, host)
        return host.server  # type: ignore[no-any-return]  # a host knows it as Any

    @instance.setter
    def instance(cls, value: Any) -> None:
        current().server = value


class PromptServer(metaclass=_Instance):
    """The server as packs know it. Sending is safe from any thread; without a server nothing is sent.

    routes: packs add theirs here; they are served at their path and below /api, also while the server runs.
    app: an application whose router takes further routes and static folders. loop: the server's event loop.
    """

    __module__ = "server"  # packs find ComfyUI's folder by the file of this class

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, host: Host | None = None) -> None:
        self._host = host or current()
        self._own_loop = loop
        self._wire: Wire | None = None
        self.routes = web.RouteTableDef()
        self.app = web.Application()
        self.on_prompt_handlers: list[OnPrompt] = []
        self.prompt_queue = PromptQueue(self)
        self.supports = ["custom_nodes_from_web"]
        self.client_session: Any = None
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.user_manager = UserManager(self._host)
        self.model_file_manager: Any = None
        self.custom_node_manager: Any = None
        self.subgraph_manager: Any = None
        self.internal_routes: Any = None
        self.web_root = str(self._host.settings.front_end_root or "")
        self.address = self._host.settings.listen.partition(",")[0]
        self.port = self._host.settings.port
        self._given: dict[str, Any] = {}
        self._mirrored = threading.local()

    def attach(self, loop: asyncio.AbstractEventLoop, wire: Wire) -> None:
        """From now on there are a loop and sockets."""
        self._own_loop = loop
        self._wire = wire
        if self._host.engine is not None:
            self._host.engine.events.subscribe(self._mirror)

    def _mirror(self, event: Any) -> None:
        """Send what packs told, and show the engine's events to whoever has replaced `send_sync`.

        The latter are on their way to the clients already.
        """
        if isinstance(event, PackMessage):
            event.send()
            return
        replaced = "send_sync" in vars(self) or type(self).send_sync is not _SEND_SYNC
        if not replaced or isinstance(event, Preview):
            return
        self._mirrored.now = True
        try:
            self.send_sync(event.type, event.data(), event.client_id)
        except Exception:  # a pack's code must not stop events
            log.warning("A replaced send_sync failed at %s.", event.type, exc_info=True)
        finally:
            self._mirrored.now = False

    # What packs read

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The server's event loop; before there is one, one that nothing runs on."""
        if self._own_loop is None:
            self._own_loop = asyncio.new_event_loop()
        return self._own_loop

    @loop.setter
    def loop(self, value: asyncio.AbstractEventLoop) -> None:
        self._own_loop = value

    @property
    def client_id(self) -> str | None:
        """The client of the running prompt."""
        if "client_id" in self._given:
            return self._given["client_id"]  # type: ignore[no-any-return]  # what a pack put there
        job = self._running()
        return job.client_id if job is not None else None

    @client_id.setter
    def client_id(self, value: str | None) -> None:
        self._given["client_id"] = value

    @property
    def last_prompt_id(self) -> str | None:
        """The prompt that runs, or ran last."""
        job = self._running()
        if job is not None:
            self._given["last_prompt_id"] = job.prompt_id
        return self._given.get("last_prompt_id")

    @last_prompt_id.setter
    def last_prompt_id(self, value: str | None) -> None:
        self._given["last_prompt_id"] = value

    @property
    def last_node_id(self) -> str | None:
        """The node that runs, or ran last."""
        run = CURRENT_RUN.get()
        if run is not None:
            self._given["last_node_id"] = run.node_id
        return self._given.get("last_node_id")

    @last_node_id.setter
    def last_node_id(self, value: str | None) -> None:
        self._given["last_node_id"] = value

    @property
    def number(self) -> int:
        """How many prompts were accepted without a number of their own."""
        return int(getattr(self._host.engine, "_counter", 0))

    @number.setter
    def number(self, value: int) -> None:
        if self._host.engine is not None:
            self._host.engine._counter = value

    @property
    def sockets(self) -> Mapping[str, Any]:
        """The open sockets by client id."""
        return self._wire.sockets() if self._wire is not None else {}

    @property
    def sockets_metadata(self) -> dict[str, Any]:
        """What each client said it can do."""
        wire = self._wire
        return {} if wire is None else {sid: {"feature_flags": dict(wire.flags(sid))} for sid in wire.sockets()}

    def _running(self) -> Any:
        engine = self._host.engine
        if engine is None:
            return None
        run = CURRENT_RUN.get()
        jobs = engine.queue.running_jobs()
        return next((job for job in jobs if run is None or job.prompt_id == run.prompt_id), None)

    # Sending

    def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
        """Send soon, from any thread: a text frame for a name, a binary frame for an event id."""
        wire, loop = self._wire, self._own_loop
        if wire is None or loop is None or loop.is_closed() or getattr(self._mirrored, "now", False):
            return
        sid = self._everyone() if sid is None else sid
        if isinstance(event, int):
            self._deliver(partial(wire.send_bytes, self._frame(event, data), sid))
        elif isinstance(data, bytes | bytearray):
            log.warning("The message %r is bytes without an event id; it is not sent.", event)
        else:
            self._deliver(partial(wire.send, str(event), data, sid))

    def _everyone(self) -> str | None:
        """Who hears what names no client: all, but of a prompt that belongs to an API key that key's sockets alone."""
        engine, run = self._host.engine, CURRENT_RUN.get()
        found = None if engine is None or run is None else engine.queue.find(run.prompt_id)
        return None if found is None else socket_id(found[0].owner, None)

    def _deliver(self, send: Callable[[], None]) -> None:
        """Send on the event loop, after what the engine told before."""
        engine, run = self._host.engine, CURRENT_RUN.get()
        if engine is not None:
            engine.events.push(PackMessage(run.prompt_id if run is not None else "", None, send))
        elif self._own_loop is not None:
            self._own_loop.call_soon_threadsafe(send)

    def _frame(self, event: int, data: Any) -> bytes:
        if event == BinaryEventTypes.UNENCODED_PREVIEW_IMAGE:
            return _picture_frame(data)
        if isinstance(data, tuple) and event == BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA:
            preview, metadata = data
            image, kind = _encoded(preview)
            about = json.dumps({**metadata, "image_type": kind}).encode()
            return struct.pack(">II", event, len(about)) + about + image
        return bytes(self.encode_bytes(event, data))

    async def send(self, event: Any, data: Any, sid: str | None = None) -> None:
        """Send soon."""
        self.send_sync(event, data, sid)

    async def send_json(self, event: str, data: Any, sid: str | None = None) -> None:
        """Send a text frame soon."""
        self.send_sync(event, data, sid)

    async def send_bytes(self, event: int, data: bytes, sid: str | None = None) -> None:
        """Send a binary frame soon."""
        self.send_sync(event, data, sid)

    async def send_image(self, image_data: Any, sid: str | None = None) -> None:
        """Send a preview: (format, picture, largest side)."""
        self.send_sync(BinaryEventTypes.UNENCODED_PREVIEW_IMAGE, image_data, sid)

    async def send_image_with_metadata(
        self, image_data: Any, metadata: Mapping[str, Any] | None = None, sid: str | None = None
    ) -> None:
        """Send a preview with what it is of."""
        self.send_sync(BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA, (image_data, metadata or {}), sid)

    def send_progress_text(self, text: str | bytes, node_id: str, sid: str | None = None) -> None:
        """Show a text at a node."""
        name = str(node_id).encode()
        body = text if isinstance(text, bytes) else str(text).encode()
        self.send_sync(BinaryEventTypes.TEXT, struct.pack(">I", len(name)) + name + body, sid or self.client_id)

    def encode_bytes(self, event: int, data: bytes) -> bytearray:
        """A binary frame: the event id and the data. Raises RuntimeError for an event that is no number."""
        if not isinstance(event, int):
            raise RuntimeError(f"Binary event types must be integers, got {event}")
        return bytearray(struct.pack(">I", event) + bytes(data))

    def queue_updated(self) -> None:
        """Tell everyone how many prompts are left."""
        self.send_sync("status", {"status": self.get_queue_info()})

    def get_queue_info(self) -> dict[str, Any]:
        """`{"exec_info": {"queue_remaining": n}}`."""
        return {"exec_info": {"queue_remaining": self.prompt_queue.get_tasks_remaining()}}

    # Prompts

    def add_on_prompt_handler(self, handler: OnPrompt) -> None:
        """Call this with the body of every POST /prompt; what it returns is used in its place."""
        self.on_prompt_handlers.append(handler)

    def trigger_on_prompt(self, json_data: dict[str, Any]) -> dict[str, Any]:
        """The body after every handler. One that raises is logged and passed over."""
        for handler in list(self.on_prompt_handlers):
            try:
                json_data = handler(json_data)
            except Exception:  # noqa: PERF203 - one handler must not stop the others
                log.warning("An on-prompt handler failed and is passed over.", exc_info=True)
        return json_data

    # What only ComfyUI's own start-up calls

    def add_routes(self) -> None:
        """Routes are served as soon as they are in `routes`."""
        log.debug("A pack asked for its routes to be added; they are served already.")

    async def setup(self) -> None:
        """The server sets itself up."""
        log.debug("A pack asked for the server to be set up; it is.")

    async def publish_loop(self) -> None:
        """Messages are sent by the server itself: wait until cancelled."""
        await asyncio.Event().wait()

    async def start(
        self, address: str, port: int, verbose: bool = True, call_on_start: Callable[..., Any] | None = None
    ) -> None:
        """The server runs already: call back with its address."""
        await self.start_multi_address([(address, port)], call_on_start, verbose)

    async def start_multi_address(
        self,
        addresses: list[tuple[str, int]],
        call_on_start: Callable[..., Any] | None = None,
        verbose: bool = True,
    ) -> None:
        """The server runs already: call back with its address."""
        del verbose
        if call_on_start is not None:
            call_on_start("http", *addresses[0])


_SEND_SYNC = PromptServer.send_sync


class UserSettings:
    """Users' settings as packs ask for them."""

    def __init__(self, users: UserManager) -> None:
        self._users = users

    def get_settings(self, request: web.Request) -> dict[str, Any]:
        """The settings of who asks."""
        found: dict[str, Any] = self._users.store.settings(self._users.get_request_user_id(request))
        return found

    def save_settings(self, request: web.Request, settings: dict[str, Any]) -> None:
        """Keep these settings of who asks."""
        self._users.store.update_settings(self._users.get_request_user_id(request), settings)


class UserManager:
    """Users as packs ask for them."""

    def __init__(self, host: Host | None = None) -> None:
        self._host = host or current()
        self.settings = UserSettings(self)

    @property
    def store(self) -> Any:
        """Where users' files and settings are kept."""
        return self._host.store.users

    @property
    def users(self) -> dict[str, str]:
        """Names by id; none where there is one user alone."""
        found: dict[str, str] = self.store.describe().get("users", {})
        return found

    def get_request_user_id(self, request: web.Request) -> str:
        """Who asks. Raises KeyError for a user that is not there."""
        if not self._host.settings.multi_user:
            return "default"
        user = request.headers.get("comfy-user", "")
        if user not in self.users:
            raise KeyError(f"Unknown user: {user}")
        return user

    def get_request_user_filepath(
        self,
        request: web.Request,
        file: str | None,
        type: str = "userdata",  # noqa: A002 - ComfyUI's name
        create_dir: bool = True,
    ) -> str | None:
        """The path of a user's file, None when it would lie elsewhere."""
        del type
        try:
            path: Path = self.store.path(self.get_request_user_id(request), file or "")
        except LimnerError:
            return None
        if create_dir:
            path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)


def _encoded(preview: Any) -> tuple[bytes, str]:
    """The bytes of a preview (format, picture, largest side) and their type."""
    kind, picture, side = preview[0], preview[1], preview[2] if len(preview) > 2 else None
    if kind == "PNG":
        buffer = io.BytesIO()
        if side:
            picture = picture.copy()
            picture.thumbnail((side, side))
        picture.save(buffer, format="PNG", compress_level=1)
        return buffer.getvalue(), "image/png"
    return encode_preview(picture, side or max(picture.size))


def _picture_frame(preview: Any) -> bytes:
    image, kind = _encoded(preview)
    return struct.pack(">II", BinaryEventTypes.PREVIEW_IMAGE, 2 if kind == "image/png" else 1) + image


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
