"""What waits to be written to one socket: first in, first out, with a bound on the memory a slow client can take."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from struct import pack
from time import monotonic

CROWDED = 1 << 20
"""Bytes waiting from which on a newer state replaces the older one of its kind."""
FULL = 32 << 20
"""Bytes waiting at which a client is given up: it can ask `/history` when it comes back."""
PATIENCE = 30.0
"""Seconds without reading after which a client that lets more than `CROWDED` wait is given up too."""


@dataclass(frozen=True)
class Message:
    """A frame ready to be written, made once for all sockets.

    supersedes: messages with an equal value are states of one thing, so that only the newest counts; None for what
    must never be left out. lasting: how a prompt ended, which its client must hear even if its socket breaks.
    """

    frame: bytes
    supersedes: Hashable = None
    lasting: bool = False


def text_frame(payload: bytes) -> bytes:
    """An unmasked, final text frame (RFC 6455, section 5.2)."""
    return _header(0x81, len(payload)) + payload


def binary_frame(payload: bytes) -> bytes:
    """An unmasked, final binary frame."""
    return _header(0x82, len(payload)) + payload


def _header(first: int, size: int) -> bytes:
    if size < 126:
        return bytes((first, size))
    return pack("!BBH", first, 126, size) if size < 65536 else pack("!BBQ", first, 127, size)


class Outbox:
    """A queue of frames. Not thread-safe: it belongs to the event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Message | None] = deque()
        self._newest: dict[Hashable, int] = {}
        self._taken = 0
        self._read = monotonic()
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def full(self) -> bool:
        """Whether so much waits that the client must be given up."""
        return self.size > FULL or (self.size > CROWDED and monotonic() - self._read > PATIENCE)

    def lasting(self) -> list[Message]:
        """What waits and must be heard."""
        return [message for message in self._waiting if message is not None and message.lasting]

    def put(self, message: Message) -> None:
        """Add a message; when many wait, an older state of the same thing is left out."""
        if not self._waiting:
            self._read = monotonic()
        kind = message.supersedes
        if kind is not None:
            older = self._newest.get(kind, -1) - self._taken
            if self.size > CROWDED and older >= 0 and (stale := self._waiting[older]) is not None:
                self.size -= len(stale.frame)
                self._waiting[older] = None
            self._newest[kind] = self._taken + len(self._waiting)
        self._waiting.append(message)
        self.size += len(message.frame)

    def take(self, most: int = 256 * 1024) -> bytes:
        """The next frames in order, joined: whole ones, until `most` bytes are reached. b"" when nothing waits."""
        frames = []
        room = most
        self._read = monotonic()
        while self._waiting and room > 0:
            message = self._waiting.popleft()
            self._taken += 1
            if message is not None:
                frames.append(message.frame)
                room -= len(message.frame)
        if not self._waiting:
            self._newest.clear()
        batch = b"".join(frames)
        self.size -= len(batch)
        return batch
