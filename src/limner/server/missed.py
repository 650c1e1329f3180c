"""How prompts ended that nobody was there to hear of, for clients that come back soon.

Some clients renew their socket while nothing happens, or open it after they posted: without this they would wait for
the end of a prompt for ever.
"""

from __future__ import annotations

from collections import deque
from time import monotonic

from limner.server.outbox import Message

KEPT = 30.0
"""Seconds for which an end is kept."""
MOST_CLIENTS = 1000
MOST_EACH = 128
LARGEST = 256 * 1024
"""Bytes of a message that is worth keeping; `/history` has what is larger."""


class Missed:
    """Messages by client, oldest first, each for a while. For the event loop only."""

    def __init__(self) -> None:
        self._kept: dict[str, deque[tuple[float, Message]]] = {}

    def keep(self, sid: str, message: Message) -> None:
        """Nobody has heard this."""
        if len(message.frame) > LARGEST:
            return
        kept = self._kept.pop(sid, None)
        if kept is None:
            kept = deque(maxlen=MOST_EACH)
            self._tidy()
        kept.append((monotonic(), message))
        self._kept[sid] = kept  # the client heard of last is the last to be forgotten

    def take(self, sid: str) -> list[Message]:
        """What the client missed lately; it is not kept any longer."""
        since = monotonic() - KEPT
        return [message for time, message in self._kept.pop(sid, ()) if time >= since]

    def _tidy(self) -> None:
        """Forget clients that stay away, and the longest away where there are too many."""
        since = monotonic() - KEPT
        while self._kept:
            sid = next(iter(self._kept))
            if len(self._kept) < MOST_CLIENTS and self._kept[sid][-1][0] >= since:
                return
            del self._kept[sid]
