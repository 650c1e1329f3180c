"""Nodes that are coroutines: begun, parked while they wait, and taken up again when they are done (rules A1 to A4)."""

from __future__ import annotations

import asyncio
import logging
import threading
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from typing import Any

log = logging.getLogger(__name__)

LOOK = 0.05
"""Seconds between two looks at whether the prompt was interrupted, while nothing but tasks runs."""
LONGEST_FAREWELL = 0.5
"""Seconds that cancelled tasks are given to clean up."""


class Loops:
    """Drives a run's coroutine: without an event loop until it asks for one, then on a loop of its own.

    A chain of ordinary nodes needs none, and making one takes as long as running several.
    """

    def drive(self, main: Coroutine[Any, Any, None]) -> None:
        """Run it to its end in this thread. Raises what it raises."""
        try:
            main.send(None)
        except StopIteration:
            return
        loop = asyncio.new_event_loop()
        try:
            asyncio.set_event_loop(loop)
            loop.run_until_complete(main)
        finally:
            asyncio.set_event_loop(None)
            loop.close()
            log.debug("A loop for coroutines was used in %s.", threading.current_thread().name)


@types.coroutine
def take_loop() -> Generator[None, None, None]:
    """Go on, on an event loop: to be awaited once by what `Loops.drive` runs."""
    yield


class Tasks:
    """The tasks of one run, by the node that they belong to."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}
        self._all: dict[asyncio.Future[Any], str] = {}
        self._returned: list[str] = []
        self._waker: asyncio.Future[None] | None = None

    def begin(self, awaitable: Awaitable[Any]) -> asyncio.Future[Any]:
        """Make a task of what a call gave, in the context of that call."""
        return asyncio.ensure_future(awaitable)

    def park(self, node: str, tasks: Iterable[asyncio.Future[Any]]) -> None:
        """The node waits for these."""
        waiting = [task for task in tasks if not task.done()]
        self._left[node] = len(waiting)
        for task in waiting:
            self._all[task] = node
            task.add_done_callback(self._done)

    def returned(self) -> list[str]:
        """Nodes that can go on since this was last asked: all their tasks have ended, or one has failed."""
        found, self._returned = self._returned, []
        return found

    def first(self) -> str:
        """The node that waits longest."""
        return next(iter(self._left))

    async def turn(self) -> None:
        """Let tasks go on for one turn of the loop."""
        await asyncio.sleep(0)

    async def wait(self, check: Callable[[], None]) -> None:
        """Wait until a parked node can go on. check: raises when the run is to end; looked at now and then."""
        loop = asyncio.get_running_loop()
        while not self._returned:
            check()
            self._waker = loop.create_future()
            timer = loop.call_later(LOOK, _wake, self._waker)
            await self._waker
            timer.cancel()
            self._waker = None

    def __bool__(self) -> bool:
        return bool(self._left)

    async def cancel(self) -> None:
        """End every task that is left, of nodes and what they have begun themselves."""
        current = asyncio.current_task()
        left = {task for task in asyncio.all_tasks() if task is not current}
        for task in left:
            task.cancel()
        if left:
            _, still = await asyncio.wait(left, timeout=LONGEST_FAREWELL)
            if still:
                log.warning("%d tasks of nodes do not end when they are cancelled; they are left behind.", len(still))

    def _done(self, task: asyncio.Future[Any]) -> None:
        node = self._all.pop(task)
        if node not in self._left:
            return
        self._left[node] -= 1
        failed = not task.cancelled() and task.exception() is not None
        if failed or not self._left[node]:
            del self._left[node]
            self._returned.append(node)
            if self._waker is not None:
                _wake(self._waker)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
