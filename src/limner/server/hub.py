"""The open sockets, and which of them hears what."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from aiohttp import WSMsgType, web

from limner.engine.events import StatusChanged
from limner.engine.queue import socket_id
from limner.server import wire
from limner.server.auth import PROTOCOL
from limner.server.keys import owner_of
from limner.server.logs import Entry, LogRing, terminal_size
from limner.server.outbox import Message, Outbox

if TYPE_CHECKING:
    from limner.engine import Engine
    from limner.engine.events import Event

log = logging.getLogger(__name__)

LOGS_EVERY = 0.1
"""Seconds over which log lines are gathered into one message."""


class Socket:
    """One client's socket: what waits for it, and what the client said it can do.

    sid: what the table of sockets and events call it: the client's id, marked with the owner where there are API keys.
    """

    def __init__(self, client_id: str, websocket: web.WebSocketResponse, request: web.Request) -> None:
        self.client_id = client_id
        self.owner = owner_of(request)
        self.sid = socket_id(self.owner, client_id) or client_id
        self.flags: dict[str, Any] = {}
        self._websocket = websocket
        self._transport = request.transport
        self._drain = request.writer.drain
        self._outbox = Outbox()
        self._wake = asyncio.Event()

    @property
    def reads_metadata(self) -> bool:
        """Whether the client announced that it reads previews with metadata."""
        return self.flags.get("supports_preview_metadata") is True

    def put(self, message: Message) -> None:
        """Send in order, soon; a client that lets 64 MiB wait is cut off."""
        self._outbox.put(message)
        self._wake.set()
        if self._outbox.full and self._transport is not None:
            log.warning("The client %s reads too slowly and is cut off; /history has what it missed.", self.sid)
            self._transport.abort()

    async def pump(self) -> None:
        """Write what waits, until cancelled. Many frames go out in one write: a write costs more than a frame."""
        transport = self._transport
        while transport is not None:
            await self._wake.wait()
            self._wake.clear()
            while self._outbox:
                batch = self._outbox.take()
                if self._websocket.closed or transport.is_closing():
                    return
                transport.write(batch)
                await self._drain()

    async def close(self) -> None:
        """Say goodbye: the server goes down."""
        await self._websocket.close(code=1001, message=b"The server is going down.")


class Hub:
    """All sockets by client id.

    features: what the server tells of itself in the handshake. on_first_client: called once, when a front
    end introduces itself; a script that only listens does not.
    """

    def __init__(
        self,
        engine: Engine,
        logs: LogRing,
        features: dict[str, Any],
        on_first_client: Callable[[], None] | None = None,
    ) -> None:
        self._engine = engine
        self._logs = logs
        self._features = features
        self._on_first_client = on_first_client
        self._sockets: dict[str, Socket] = {}
        self._log_readers: set[str] = set()
        self._fresh_lines: list[Entry] = []
        self._held_preview: wire.Preview | None = None
        self._stops: list[Callable[[], None]] = []

    def start(self) -> None:
        """Listen to the engine and the log; needs the running event loop."""
        loop = asyncio.get_running_loop()
        self._stops.append(self._engine.events.subscribe(self.on_event))
        self._stops.append(self._logs.listen(lambda entry: self._hear(loop, entry)))

    async def stop(self) -> None:
        """Stop listening and close every socket."""
        for stop in self._stops:
            stop()
        self._stops.clear()
        await asyncio.gather(*(socket.close() for socket in list(self._sockets.values())), return_exceptions=True)

    # Messages out

    def send(self, kind: str, data: Any, sid: str | None = None) -> None:
        """Send `{"type": kind, "data": data}` to one client, or to all. Event loop only."""
        _put([socket for socket in self._sockets.values() if sid in (None, socket.sid)], wire.text(kind, data))

    def on_event(self, event: Event) -> None:
        """Tell those concerned. Nothing is encoded where nobody listens."""
        sid: str | None = event.client_id
        if sid is None or sid.endswith("\0"):
            if not self._sockets or not isinstance(event, wire.FOR_ALL):
                return
            # An owner's prompt without a client: its own sockets and administrators' hear of it.
            receivers = [one for one in self._sockets.values() if sid is None or one.owner in (None, sid[:-1])]
        elif (one := self._sockets.get(sid)) is not None:
            receivers = [one]
        else:
            return
        if isinstance(event, wire.Preview):
            self._preview(event, receivers)
            return
        if isinstance(event, StatusChanged):
            self._tell_status(event, receivers)
            return
        _put(receivers, wire.encode(event))
        if isinstance(event, wire.Progress) and self._held_preview is not None:
            held, self._held_preview = self._held_preview, None
            plain = [socket for socket in receivers if not socket.reads_metadata]
            if plain and held.node == event.node:
                _put(plain, wire.preview_plain(held))

    def _tell_status(self, event: StatusChanged, receivers: list[Socket]) -> None:
        """Everyone hears how many prompts are left; an API key's sockets only of its own."""
        _put([socket for socket in receivers if socket.owner is None], wire.encode(event))
        for owner in {socket.owner for socket in receivers if socket.owner is not None}:
            own = replace(event, queue_remaining=self._engine.queue.remaining(owner))
            _put([socket for socket in receivers if socket.owner == owner], wire.encode(own))

    def _preview(self, event: wire.Preview, receivers: list[Socket]) -> None:
        """Capable clients get a preview before the progress it belongs to, the others after it."""
        capable = [socket for socket in receivers if socket.reads_metadata]
        if capable:
            _put(capable, wire.preview_with_metadata(event))
        self._held_preview = event if len(capable) < len(receivers) else None

    # Sockets in

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Speak with one client until it goes. `clientId` in the query takes an id over from an earlier socket."""
        # Compression would cost more than it saves: most clients are on this machine or its network.
        websocket = web.WebSocketResponse(compress=False, protocols=_key_protocols(request))
        await websocket.prepare(request)
        socket = Socket(request.query.get("clientId") or uuid4().hex, websocket, request)
        self._sockets[socket.sid] = socket
        pump = asyncio.create_task(socket.pump())
        self._greet(socket)
        try:
            await self._listen(socket, websocket)
        finally:
            pump.cancel()
            # Unless a newer socket has taken the id over.
            if self._sockets.get(socket.sid) is socket:
                del self._sockets[socket.sid]
                self._log_readers.discard(socket.sid)
        return websocket

    def _greet(self, socket: Socket) -> None:
        status = {"exec_info": {"queue_remaining": self._engine.queue.remaining(socket.owner)}}
        socket.put(wire.text("status", {"status": status, "sid": socket.client_id}))
        running = self._engine.current(socket.sid)
        if running is not None:
            socket.put(wire.text("executing", {"node": running.display_node}))

    async def _listen(self, socket: Socket, websocket: web.WebSocketResponse) -> None:
        first = True
        async for message in websocket:
            if message.type is WSMsgType.ERROR:
                log.warning("The socket of %s broke: %s", socket.sid, websocket.exception())
            elif message.type is WSMsgType.TEXT and first:
                first = False
                self._handshake(socket, message.data)

    def _handshake(self, socket: Socket, text: str) -> None:
        try:
            frame = json.loads(text)
        except (ValueError, RecursionError):
            log.warning("The client %s sent a text that is not JSON; it is ignored.", socket.sid)
            return
        if isinstance(frame, dict) and frame.get("type") == "feature_flags" and isinstance(frame.get("data"), dict):
            socket.flags = frame["data"]
            socket.put(wire.text("feature_flags", self._features))
            if self._on_first_client is not None:
                call, self._on_first_client = self._on_first_client, None
                call()

    # Logs

    def read_logs(self, sid: str, *, enabled: bool) -> None:
        """Send the client log lines from now on, or no more."""
        if enabled:
            self._log_readers.add(sid)
        else:
            self._log_readers.discard(sid)

    def _hear(self, loop: asyncio.AbstractEventLoop, entry: Entry) -> None:
        if self._log_readers and not loop.is_closed():
            loop.call_soon_threadsafe(self._gather, loop, entry)

    def _gather(self, loop: asyncio.AbstractEventLoop, entry: Entry) -> None:
        if not self._fresh_lines:
            loop.call_later(LOGS_EVERY, self._tell_logs)
        self._fresh_lines.append(entry)

    def _tell_logs(self) -> None:
        entries, self._fresh_lines = self._fresh_lines, []
        message = wire.text("logs", {"entries": entries, "size": terminal_size()})
        for sid in self._log_readers & self._sockets.keys():
            self._sockets[sid].put(message)


def _key_protocols(request: web.Request) -> tuple[str, ...]:
    """The subprotocol in which the client sent an API key: a browser gives up a socket that does not take it."""
    offered = [part.strip() for part in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    return tuple(part for part in offered if part.startswith(PROTOCOL))


def _put(sockets: list[Socket], message: Message) -> None:
    for socket in sockets:
        socket.put(message)
