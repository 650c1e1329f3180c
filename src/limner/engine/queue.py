"""The queue: prompts in order of number, then of arrival, and the one that runs."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from threading import Condition
from typing import Any

from limner.graph import Prompt


@dataclass(eq=False)
class Job:
    """One accepted prompt on its way through queue and run.

    prompt: the API prompt as stored, with values converted. extra_data: without secrets, with `create_time`.
    outputs: ids of the output nodes to execute. sensitive: the secrets. parsed: `prompt` read, when that was done
    already. `interrupted` is set to end it; whoever runs it looks at it between steps.
    """

    prompt_id: str
    number: int | float
    prompt: dict[str, Any]
    extra_data: dict[str, Any]
    outputs: list[str]
    create_time: int
    sensitive: Mapping[str, Any] = field(default_factory=dict, repr=False)
    parsed: Prompt | None = field(default=None, repr=False)
    interrupted: bool = False

    @property
    def client_id(self) -> str | None:
        """The client whose socket gets this prompt's events, or None."""
        client = self.extra_data.get("client_id")
        return client if isinstance(client, str) else None

    def item(self) -> list[Any]:
        """The queue item of the protocol: `[number, prompt_id, prompt, extra_data, outputs]`."""
        return [self.number, self.prompt_id, self.prompt, self.extra_data, self.outputs]


def _ignore(_: object) -> None:
    """Nobody wants to know."""


class Queue:
    """Thread-safe. Lower number first; equal numbers in order of arrival. One job runs at a time.

    changed: called with the count of remaining prompts after each change, under the lock, so that the counts are
    reported in the order in which they were true. removed: called with the ids of waiting jobs that were taken out.
    """

    def __init__(
        self, changed: Callable[[int], object] = _ignore, removed: Callable[[list[str]], object] = _ignore
    ) -> None:
        self._heap: list[tuple[float, int, Job]] = []
        self._waiting: dict[str, Job] = {}
        self._running: dict[str, Job] = {}
        self._arrival = count()
        self._condition = Condition()
        self._closed = False
        self._woken = False
        self._changed = changed
        self._removed = removed

    def put(self, job: Job) -> None:
        """Add a job."""
        with self._condition:
            heapq.heappush(self._heap, (job.number, next(self._arrival), job))
            self._waiting[job.prompt_id] = job
            self._condition.notify()
            self._report()

    def take(self) -> Job | None:
        """Wait for the next job, which is then running; None when `wake` or `close` was called instead."""
        with self._condition:
            while not (self._closed or self._woken or self._waiting):
                self._condition.wait()
            self._woken = False
            if self._closed:
                return None
            while self._heap:
                job = heapq.heappop(self._heap)[2]
                if self._waiting.get(job.prompt_id) is job:
                    del self._waiting[job.prompt_id]
                    self._running[job.prompt_id] = job
                    self._report()
                    return job
            return None

    def done(self, job: Job) -> None:
        """The job is over: it must be in the history already, so that it is never in neither."""
        with self._condition:
            if self._running.pop(job.prompt_id, None) is not None:
                self._report()

    def wake(self) -> None:
        """Let a waiting `take` return, so that its caller looks at what else there is to do."""
        with self._condition:
            self._woken = True
            self._condition.notify_all()

    def close(self) -> None:
        """Give out nothing more."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def running(self) -> list[list[Any]]:
        """The running jobs as queue items."""
        with self._condition:
            return [job.item() for job in self._running.values()]

    def pending(self) -> list[list[Any]]:
        """The waiting jobs as queue items, next first."""
        return [job.item() for job in self.pending_jobs()]

    def running_jobs(self) -> list[Job]:
        """The running jobs."""
        with self._condition:
            return list(self._running.values())

    def pending_jobs(self) -> list[Job]:
        """The waiting jobs, next first."""
        with self._condition:
            return [job for _, _, job in sorted(self._heap, key=lambda e: e[:2]) if self._is_waiting(job)]

    def remaining(self) -> int:
        """How many prompts wait or run."""
        with self._condition:
            return len(self._waiting) + len(self._running)

    def __contains__(self, prompt_id: object) -> bool:
        with self._condition:
            return prompt_id in self._waiting or prompt_id in self._running

    def find(self, prompt_id: str) -> tuple[Job, bool] | None:
        """The job of that id and whether it runs, or None."""
        with self._condition:
            if prompt_id in self._running:
                return self._running[prompt_id], True
            job = self._waiting.get(prompt_id)
            return None if job is None else (job, False)

    def delete(self, prompt_ids: Iterable[str]) -> list[str]:
        """Take waiting jobs out; running and unknown ids are left alone. Returns those taken out."""
        gone: list[str] = []
        with self._condition:
            for prompt_id in prompt_ids:
                if isinstance(prompt_id, str) and self._waiting.pop(prompt_id, None) is not None:
                    gone.append(prompt_id)
                    self._report()
            self._tidy()
            if gone:
                self._removed(gone)
        return gone

    def clear(self) -> list[str]:
        """Take every waiting job out. Returns their ids."""
        with self._condition:
            gone = list(self._waiting)
            self._waiting.clear()
            self._heap.clear()
            self._removed(gone)
            self._report()
        return gone

    def interrupt(self, prompt_id: str | None = None) -> bool:
        """Interrupt that job, or with None whatever runs now. Returns whether there was one.

        A job that is still waiting is interrupted as soon as it starts: an interrupt that names it is not lost.
        """
        with self._condition:
            if prompt_id is None:
                jobs = list(self._running.values())
            else:
                found = self._running.get(prompt_id) or self._waiting.get(prompt_id)
                jobs = [] if found is None else [found]
            for job in jobs:
                job.interrupted = True
        return bool(jobs)

    def cancel(self, prompt_id: str) -> bool:
        """Interrupt the job if it runs, take it out if it waits. Returns whether it did either.

        Under one lock: a job that starts meanwhile is interrupted, and no other ever is.
        """
        with self._condition:
            running = self._running.get(prompt_id)
            if running is not None:
                running.interrupted = True
                return True
            if self._waiting.pop(prompt_id, None) is None:
                return False
            self._tidy()
            self._removed([prompt_id])
            self._report()
            return True

    def _is_waiting(self, job: Job) -> bool:
        return self._waiting.get(job.prompt_id) is job

    def _tidy(self) -> None:
        """Drop removed jobs from the heap once they are most of it."""
        if len(self._heap) > 2 * len(self._waiting) + 16:
            self._heap = [entry for entry in self._heap if self._is_waiting(entry[2])]
            heapq.heapify(self._heap)

    def _report(self) -> None:
        self._changed(len(self._waiting) + len(self._running))
