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
    already. `interrupted` is set to end it; whoever runs it looks at it between steps. owner: the name of the API key
    that brought it, None where there are no keys.
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
    owner: str | None = None

    @property
    def client_id(self) -> str | None:
        """The client whose socket gets this prompt's events, or None.

        With an owner it is `socket_id` of both, so that no client of another key can take that name.
        """
        client = self.extra_data.get("client_id")
        return socket_id(self.owner, client if isinstance(client, str) else None)

    def is_of(self, owner: str | None) -> bool:
        """Whether that owner may see and cancel it; None may with every job."""
        return owner is None or self.owner == owner

    def item(self) -> list[Any]:
        """The queue item of the protocol: `[number, prompt_id, prompt, extra_data, outputs]`."""
        return [self.number, self.prompt_id, self.prompt, self.extra_data, self.outputs]


def socket_id(owner: str | None, client: str | None) -> str | None:
    """The name that events carry for a client of an owner: the client's own where there is no owner.

    An owner's prompt without a client has the owner's bare name, which ends in a NUL: all sockets of that owner.
    """
    return client if owner is None else f"{owner}\0{client or ''}"


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

    def running(self, owner: str | None = None) -> list[list[Any]]:
        """The running jobs as queue items; of one owner, or all, as everywhere here."""
        return [job.item() for job in self.running_jobs(owner)]

    def pending(self, owner: str | None = None) -> list[list[Any]]:
        """The waiting jobs as queue items, next first."""
        return [job.item() for job in self.pending_jobs(owner)]

    def running_jobs(self, owner: str | None = None) -> list[Job]:
        """The running jobs."""
        with self._condition:
            return [job for job in self._running.values() if job.is_of(owner)]

    def pending_jobs(self, owner: str | None = None) -> list[Job]:
        """The waiting jobs, next first."""
        with self._condition:
            ordered = sorted(self._heap, key=lambda e: e[:2])
            return [job for _, _, job in ordered if self._is_waiting(job) and job.is_of(owner)]

    def remaining(self, owner: str | None = None) -> int:
        """How many prompts wait or run."""
        with self._condition:
            if owner is not None:
                return sum(job.is_of(owner) for jobs in (self._waiting, self._running) for job in jobs.values())
            return len(self._waiting) + len(self._running)

    def __contains__(self, prompt_id: object) -> bool:
        with self._condition:
            return prompt_id in self._waiting or prompt_id in self._running

    def find(self, prompt_id: str, owner: str | None = None) -> tuple[Job, bool] | None:
        """The job of that id and whether it runs, or None."""
        with self._condition:
            running = prompt_id in self._running
            job = self._running[prompt_id] if running else self._waiting.get(prompt_id)
            return None if job is None or not job.is_of(owner) else (job, running)

    def delete(self, prompt_ids: Iterable[str], owner: str | None = None) -> list[str]:
        """Take waiting jobs out; running and unknown ids are left alone. Returns those taken out."""
        gone: list[str] = []
        with self._condition:
            for prompt_id in prompt_ids:
                job = self._waiting.get(prompt_id) if isinstance(prompt_id, str) else None
                if job is not None and job.is_of(owner):
                    del self._waiting[prompt_id]
                    gone.append(prompt_id)
                    self._report()
            self._tidy()
            if gone:
                self._removed(gone)
        return gone

    def clear(self, owner: str | None = None) -> list[str]:
        """Take every waiting job out. Returns their ids."""
        with self._condition:
            gone = [prompt_id for prompt_id, job in self._waiting.items() if job.is_of(owner)]
            for prompt_id in gone:
                del self._waiting[prompt_id]
            self._tidy()
            self._removed(gone)
            self._report()
        return gone

    def interrupt(self, prompt_id: str | None = None, owner: str | None = None) -> bool:
        """Interrupt that job, or with None whatever runs now. Returns whether there was one.

        A job that is still waiting is interrupted as soon as it starts: an interrupt that names it is not lost.
        """
        with self._condition:
            if prompt_id is None:
                jobs = list(self._running.values())
            else:
                found = self._running.get(prompt_id) or self._waiting.get(prompt_id)
                jobs = [] if found is None else [found]
            jobs = [job for job in jobs if job.is_of(owner)]
            for job in jobs:
                job.interrupted = True
        return bool(jobs)

    def cancel(self, prompt_id: str, owner: str | None = None) -> bool:
        """Interrupt the job if it runs, take it out if it waits. Returns whether it did either.

        Under one lock: a job that starts meanwhile is interrupted, and no other ever is.
        """
        with self._condition:
            running, waiting = self._running.get(prompt_id), self._waiting.get(prompt_id)
            if running is not None and running.is_of(owner):
                running.interrupted = True
                return True
            if waiting is None or not waiting.is_of(owner):
                return False
            del self._waiting[prompt_id]
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
