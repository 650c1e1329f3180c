"""The open sockets, and which of them hears what."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from aiohttp import WSCloseCode, WSMsgType, web

from limner.engine.events import Executing, StatusChanged
from limner.engine.queue import socket_id
from limner.errors import LimnerError
from limner.server import wire
from limner.server.auth import PROTOCOL
from limner.server.keys import owner_of
from limner.server.logs import Entry, LogRing, terminal_size
from limner.server.missed import Missed
from limner.server.outbox import Message, Outbox, binary_frame

if TYPE_CHECKING:
    from limner.engine import Engine
    from limner.engine.events import Event

log = logging.getLogger(__name__)

GOODBYE = 2.0
"""Seconds within which a client must consent to the end of its socket."""
LONGEST_FRAME = 1 << 20
"""Bytes of the longest message that a client may send."""
MOST_SOCKETS = 1000
MOST_EACH = 8
"""Sockets that stay open with one client id; only the newest hears anything."""
HANDSHAKE_SECONDS = 0.25
"""How long a client is given to say what it reads before it is shown the latest picture."""
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
        self.late_preview: wire.Preview | None = None
        self._outbox = Outbox()
        self._wake = asyncio.Event()

    @property
    def reads_metadata(self) -> bool:
        """Whether the client announced that it reads previews with metadata."""
        return self.flags.get("supports_preview_metadata") is True

    def put(self, message: Message) -> None:
        """Send in order, soon; a client that lets too much wait is cut off."""
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
                if self._websocket.closed or transport.is_closing():
                    return
                transport.write(self._outbox.take())
                await self._drain()

    def unheard(self) -> list[Message]:
        """Of what was never written, what the client must hear all the same."""
        return self._outbox.lasting()

    def cut_off(self, code: int) -> None:
        """End it without waiting for the client's consent. code: why, as RFC 6455 numbers it."""
        if self._transport is not None:
            self._transport.write(b"\x88\x02" + code.to_bytes(2, "big"))
            self._transport.close()

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
        self._missed = Missed()
        self._open: dict[Socket, None] = {}
        self._most = most_sockets()
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
        await asyncio.gather(*(socket.close() for socket in list(self._open)), return_exceptions=True)

    def __len__(self) -> int:
        return len(self._open)

    # Messages out

    def send(self, kind: str, data: Any, sid: str | None = None) -> None:
        """Send `{"type": kind, "data": data}` to one client, or to all. Event loop only."""
        _put(self._receivers(sid), wire.text(kind, data))

    def send_bytes(self, data: bytes, sid: str | None = None) -> None:
        """Send a binary frame to one client, or to all. Event loop only."""
        message = Message(binary_frame(data))
        _put(self._receivers(sid), message)

    def sockets(self) -> Mapping[str, Socket]:
        """The open sockets by id."""
        return dict(self._sockets)

    def on_event(self, event: Event) -> None:
        """Tell those concerned. Nothing is encoded where nobody listens."""
        sid: str | None = event.client_id
        if sid is None or sid.endswith("\0"):
            if not self._sockets or not isinstance(event, wire.FOR_ALL):
                return
            # An owner's prompt without a client: its own sockets and administrators' hear of it.
            receivers = self._receivers(sid)
        elif (one := self._sockets.get(sid)) is not None:
            receivers = [one]
        else:
            if wire.is_end(event):
                self._missed.keep(sid, wire.encode(event))
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

    def _receivers(self, sid: str | None) -> list[Socket]:
        """The sockets that a name means: a client's; with None everyone's; an owner's and administrators' for the bare
        name of the owner.
        """
        if sid is None:
            return list(self._sockets.values())
        if sid.endswith("\0"):
            return [one for one in self._sockets.values() if one.owner in (None, sid[:-1])]
        return [one for one in self._sockets.values() if one.sid == sid]

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
        if len(self._open) >= self._most:
            raise TooManySockets
        # Compression would cost more than it saves: most clients are on this machine or its network. Clients have
        # nothing long to say, and pings are answered here, where they are counted.
        websocket = web.WebSocketResponse(
            compress=False,
            protocols=_key_protocols(request),
            max_msg_size=LONGEST_FRAME,
            autoping=False,
            timeout=GOODBYE,
        )
        await websocket.prepare(request)
        socket = Socket(request.query.get("clientId") or uuid4().hex, websocket, request)
        self._enter(socket)
        pump = asyncio.create_task(socket.pump())
        self._greet(socket)
        try:
            await self._listen(socket, websocket)
        finally:
            pump.cancel()
            self._leave(socket)
        return websocket

    def _enter(self, socket: Socket) -> None:
        """A newer socket takes the id over; of many left open with one id the oldest are ended."""
        older = [one for one in self._open if one.sid == socket.sid] if socket.sid in self._sockets else []
        for one in older[: max(0, len(older) - MOST_EACH + 1)]:
            one.cut_off(WSCloseCode.POLICY_VIOLATION)
        self._open[socket] = None
        self._sockets[socket.sid] = socket

    def _leave(self, socket: Socket) -> None:
        del self._open[socket]
        # Unless a newer socket has taken the id over.
        if self._sockets.get(socket.sid) is socket:
            del self._sockets[socket.sid]
            self._log_readers.discard(socket.sid)
        successor = self._sockets.get(socket.sid)
        for message in socket.unheard():
            if successor is None:
                self._missed.keep(socket.sid, message)
            else:
                successor.put(message)

    def _greet(self, socket: Socket) -> None:
        status = {"exec_info": {"queue_remaining": self._engine.queue.remaining(socket.owner)}}
        socket.put(wire.text("status", {"status": status, "sid": socket.client_id}))
        _put([socket], *self._missed.take(socket.sid))
        for event in self._engine.replay(socket.sid):
            if isinstance(event, wire.Preview):
                # In the form that the client reads, which its first frame tells; a client that sends none is told late.
                socket.late_preview = event
                asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, self._show_late, socket)
            elif isinstance(event, Executing):
                socket.put(wire.text("executing", {"node": event.display_node}))
            else:
                socket.put(wire.encode(event))

    def _show_late(self, socket: Socket) -> None:
        """Send the picture that was the latest when the socket was opened, unless there is nothing to show any more."""
        event, socket.late_preview = socket.late_preview, None
        if event is not None and event in self._engine.replay(socket.sid):
            _put([socket], wire.preview_with_metadata(event) if socket.reads_metadata else wire.preview_plain(event))

    async def _listen(self, socket: Socket, websocket: web.WebSocketResponse) -> None:
        first, meter = True, Meter()
        async for message in websocket:
            if not meter.passes():
                log.warning("The client %s sends too many messages and is cut off.", socket.sid)
                socket.cut_off(WSCloseCode.POLICY_VIOLATION)
                return
            if message.type is WSMsgType.ERROR:
                log.warning("The socket of %s broke: %s", socket.sid, websocket.exception())
            elif message.type is WSMsgType.PING:
                await websocket.pong(message.data)
            elif message.type is WSMsgType.TEXT and first:
                first = False
                self._handshake(socket, message.data)
                self._show_late(socket)

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


def _put(sockets: list[Socket], *messages: Message) -> None:
    for socket in sockets:
        for message in messages:
            socket.put(message)


class TooManySockets(LimnerError):
    """No more sockets are opened: each costs memory and a file of the process."""

    def __init__(self) -> None:
        super().__init__("Too many sockets are open.", "Each client needs one only.", "Close some, and try again.")


class Meter:
    """Lets through so many messages at once, and after that so many a second."""

    def __init__(self, burst: float = 200, rate: float = 20) -> None:
        self._burst = self._left = burst
        self._rate = rate
        self._seen = monotonic()

    def passes(self) -> bool:
        """Whether one more is within bounds."""
        now = monotonic()
        self._left = min(self._burst, self._left + (now - self._seen) * self._rate) - 1
        self._seen = now
        return self._left >= 0


def most_sockets() -> int:
    """How many sockets may be open: at most half of the files that the process may have."""
    if sys.platform == "win32":
        return MOST_SOCKETS
    import resource  # noqa: PLC0415 - not on Windows

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_SOCKETS if soft == resource.RLIM_INFINITY else min(MOST_SOCKETS, max(8, soft // 2))
