"""Streams of operations that run late, and who says in which order."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from tests.memory.double import FakeAccelerator


class Entry(NamedTuple):
    """What a stream was given to do; `shape` of the result, or of what is written to."""

    stream: str
    op: str
    tag: str
    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None


@dataclass(eq=False)
class Operation:
    """A place in a queue: something to run, a point to reach, or a point to wait for."""

    stream: FakeStream
    run: Callable[[], None] | None = None
    after: Operation | None = None
    done: bool = False


@dataclass(eq=False, frozen=True)
class FakeEvent:
    """A point in a stream, and how much of every stream is done once it is reached."""

    operation: Operation
    clock: dict[FakeStream, int]


class FakeStream:
    """A queue of operations. waits: how often it was told to wait for another."""

    def __init__(self, device: FakeAccelerator, name: str, pace: float) -> None:
        self.device, self.name, self.pace = device, name, pace
        self.queue: deque[Operation] = deque()
        self.clock: dict[FakeStream, int] = defaultdict(int)
        self.waits = 0

    def __repr__(self) -> str:
        return self.name

    @contextmanager
    def entered(self) -> Iterator[FakeStream]:
        self.device.entered.append(self)
        try:
            yield self
        finally:
            self.device.entered.pop()

    def record(self) -> FakeEvent:
        operation = self.device.enqueue("record", stream=self)
        return FakeEvent(operation, dict(self.clock))

    def wait(self, event: FakeEvent) -> None:
        self.waits += 1
        self.device.enqueue("wait", after=event.operation, stream=self)
        merge(self.clock, event.clock)

    @property
    def ready(self) -> bool:
        """Whether its first operation can run."""
        return bool(self.queue) and ((after := self.queue[0].after) is None or after.done)

    def step(self) -> None:
        """Run its first operation."""
        operation, scheduler = self.queue.popleft(), self.device.scheduler
        if operation.run is not None:
            scheduler.running = True
            try:
                operation.run()
            finally:
                scheduler.running = False
        operation.done = True


def merge(clock: dict[FakeStream, int], other: dict[FakeStream, int]) -> None:
    """What is done once both clocks' points are reached, in the first."""
    for stream, number in other.items():
        clock[stream] = max(clock.get(stream, 0), number)


class Scheduler:
    """Chooses what runs, by seed: how eagerly at all, and how fast each stream is beside the others."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.idle = self.random.choice((0.1, 0.5, 0.9, 1.0))
        self.streams: list[FakeStream] = []
        self.running = False  # an operation, which is none of the host's

    def add(self, device: FakeAccelerator, name: str) -> FakeStream:
        self.streams.append(FakeStream(device, name, self.random.choice((0.05, 1.0, 20.0))))
        return self.streams[-1]

    def progress(self) -> None:
        """What happens while the host enqueues one operation: nothing, some operations, or all of them."""
        if self.random.random() >= self.idle:
            self.run(self.random.choice((1, 1, 2, 3, 5, 8, 1 << 30)))

    def run(self, count: int) -> None:
        """So many operations, fewer when no more can run."""
        for _ in range(count):
            ready = [stream for stream in self.streams if stream.ready]
            if not ready:
                return
            self.random.choices(ready, [stream.pace for stream in ready])[0].step()

    def finish(self, operation: Operation) -> None:
        """Run what has to run before this is done, and nothing else."""
        while not operation.done:
            head = operation.stream.queue[0]
            if head.after is not None:
                self.finish(head.after)
            operation.stream.step()
