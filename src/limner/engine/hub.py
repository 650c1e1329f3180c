"""The way of events from the thread that runs nodes to the event loop: in order, many to a wake-up, state coalesced."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from threading import get_ident
from time import monotonic

from limner.engine.events import Event, ProgressState

log = logging.getLogger(__name__)

STATE_INTERVAL = 0.1
"""Seconds between two progress states of a run; longer where delivering one takes long."""
STATE_SHARE = 0.1
"""The share of time that delivering progress states may take: a state of 10,000 nodes is a megabyte."""

Callback = Callable[[Event], None]


class EventHub:
    """`push` from any thread, in order; callbacks are called on the event loop.

    Progress states are cumulative, so only the latest matters: `push_state` takes a function that makes one, and it
    is called at most ten times a second. `flush_state` before the event that must come after the last state.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[Event | Callable[[], ProgressState | None]] = deque()
        self._scheduled = False
        self._callbacks: tuple[Callback, ...] = ()
        self._state: Callable[[], ProgressState] | None = None
        self._state_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._muted: dict[int, str] = {}

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver on this loop from now on."""
        self._loop = loop

    def detach(self) -> None:
        """Deliver what waits, then nothing more."""
        self._drain()
        if self._timer is not None:
            self._timer.cancel()
        self._loop = None

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Call `callback` with every event from now on; the returned function ends that."""
        self._callbacks = (*self._callbacks, callback)

        def unsubscribe() -> None:
            self._callbacks = tuple(one for one in self._callbacks if one is not callback)

        return unsubscribe

    def mute(self, thread: int, prompt_id: str) -> None:
        """That thread was left behind with a prompt that has ended: nothing it says of it is delivered."""
        self._muted[thread] = prompt_id

    def unmute(self, thread: int) -> None:
        """The thread has ended."""
        self._muted.pop(thread, None)

    def _is_muted(self) -> bool:
        return bool(self._muted) and get_ident() in self._muted

    def push(self, event: Event) -> None:
        """Deliver an event after those pushed before."""
        if self._muted and self._muted.get(get_ident()) == event.prompt_id:
            return
        self._waiting.append(event)
        if not self._scheduled:
            self._wake()

    def push_state(self, make: Callable[[], ProgressState]) -> None:
        """Deliver a progress state, soon: `make` is called when it is time, on the event loop."""
        if self._is_muted():
            return
        if self._state is not make:
            self._state = make
            self._waiting.append(self._offer_state)
            if not self._scheduled:
                self._wake()

    def flush_state(self) -> None:
        """Deliver the progress state that is held back, if any, before what is pushed next."""
        make = self._state
        if make is not None and not self._is_muted():
            self._state = None
            self._waiting.append(make)
            if not self._scheduled:
                self._wake()

    def _wake(self) -> None:
        loop = self._loop
        if loop is None:
            return
        self._scheduled = True
        try:
            loop.call_soon_threadsafe(self._drain)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self._scheduled = False

    def _drain(self) -> None:
        self._scheduled = False
        waiting = self._waiting
        while waiting:
            item = waiting.popleft()
            if isinstance(item, Event):
                self._deliver(item)
            else:
                state = item()
                if state is not None:
                    self._deliver_state(state)

    def _deliver(self, event: Event) -> None:
        for callback in self._callbacks:
            self._call(callback, event)

    def _call(self, callback: Callback, event: Event) -> None:
        try:
            callback(event)
        except Exception:
            log.exception("A listener of %s events failed.", event.type)

    def _deliver_state(self, state: ProgressState) -> None:
        start = monotonic()
        self._deliver(state)
        spent = monotonic() - start
        self._state_due = start + max(STATE_INTERVAL, spent / STATE_SHARE)

    def _offer_state(self) -> ProgressState | None:
        """The state, if it is time; else it is offered again when it is."""
        make = self._state
        loop = self._loop
        if make is None or loop is None or self._timer is not None:
            return None
        wait = self._state_due - monotonic()
        if wait > 0:
            self._timer = loop.call_later(wait, self._on_timer)
            return None
        # Taken back before it is made: what the worker changes from here on is offered anew.
        self._state = None
        return make()

    def _on_timer(self) -> None:
        self._timer = None
        state = self._offer_state()
        if state is not None:
            self._deliver_state(state)
