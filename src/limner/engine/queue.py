"""The queue: prompts in order of number, then of rank, and the one that runs."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from threading import Condition, Event
from typing import Any

from limner.engine.places import Place, Target, between, find_index, spread
from limner.graph import Prompt


@dataclass(eq=False)
class Job:
    """One accepted prompt on its way through queue and run.

    prompt: the API prompt as stored, with values converted. extra_data: without secrets, with `create_time`.
    outputs: ids of the output nodes to execute. sensitive: the secrets. parsed: `prompt` read, when that was done
    already. `interrupted` is set to end it; whoever runs it looks at it between steps. owner: the name of the API key
    that brought it, None where there are no keys. rank: order among equal numbers; the queue gives one where it is
    None. turn: which of its entries in the queue counts. over: set once how it ended is settled; from then on nothing
    can cancel it.
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
    rank: float | None = None
    turn: int = 0
    over: Event = field(default_factory=Event, repr=False)

    @property
    def place(self) -> Place:
        """Where it stands in the queue."""
        return Place(self.number, self.rank or 0)

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


@dataclass
class Arrival:
    """A prompt that is being checked and written down, and what was asked of it meanwhile."""

    owner: str | None
    cancelled: bool = False
    interrupted: bool = False


def _ignore(_: object) -> None:
    """Nobody wants to know."""


class Queue:
    """Thread-safe. Lower number first; equal numbers in order of rank, which is that of arrival. One runs at a time.

    changed: called with the count of remaining prompts after each change, under the lock, so that the counts are
    reported in the order in which they were true. removed: called with the ids of waiting jobs that were taken out.
    stopping: called with each running job that was interrupted. paused: whether it begins paused.
    """

    def __init__(
        self,
        changed: Callable[[int], object] = _ignore,
        removed: Callable[[list[str]], object] = _ignore,
        stopping: Callable[[Job], object] = _ignore,
        *,
        paused: bool = False,
    ) -> None:
        self._heap: list[tuple[float, float, int, Job]] = []
        self._arriving: dict[str, Arrival] = {}
        self._waiting: dict[str, Job] = {}
        self._running: dict[str, Job] = {}
        self._arrival = count()
        self._condition = Condition()
        self._closed = False
        self._woken = False
        self._changed = changed
        self._removed = removed
        self._stopping = stopping
        self._paused = paused

    # In and out

    def expect(self, prompt_id: str, owner: str | None = None) -> bool:
        """A job of that id is on its way, so that it can be cancelled already. False when there is one of that id."""
        with self._condition:
            if prompt_id in self._waiting or prompt_id in self._running or prompt_id in self._arriving:
                return False
            self._arriving[prompt_id] = Arrival(owner)
            return True

    def dismiss(self, prompt_id: str) -> None:
        """What was expected does not come, or has come."""
        with self._condition:
            self._arriving.pop(prompt_id, None)

    def put(self, job: Job) -> None:
        """Add a job, unless it was cancelled while it was expected."""
        with self._condition:
            arrival = self._arriving.pop(job.prompt_id, None)
            if arrival is not None:
                job.interrupted = arrival.interrupted
                if arrival.cancelled:
                    self._removed([job.prompt_id])
                    return
            self._push(job)
            self._waiting[job.prompt_id] = job
            self._condition.notify()
            self._report()

    def _push(self, job: Job) -> None:
        job.turn = next(self._arrival)
        if job.rank is None:
            job.rank = job.turn
        heapq.heappush(self._heap, (job.number, job.rank, job.turn, job))

    def take(self, timeout: float | None = None) -> Job | None:
        """Wait for the next job, which is then running.

        None when `wake` or `close` was called instead, or none came within `timeout` seconds.
        """
        with self._condition:
            self._condition.wait_for(
                lambda: self._closed or self._woken or (self._waiting and not self._paused), timeout
            )
            self._woken = False
            if self._closed or self._paused:
                return None
            while self._heap:
                entry = heapq.heappop(self._heap)
                if self._stands(entry):
                    job = entry[3]
                    del self._waiting[job.prompt_id]
                    self._running[job.prompt_id] = job
                    self._report()
                    return job
            return None

    def settle(self, job: Job) -> bool:
        """Whoever calls this first says how the job ended; from then on it cannot be cancelled."""
        with self._condition:
            if job.over.is_set():
                return False
            job.over.set()
            return True

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
            return [job for job in self._ordered() if job.is_of(owner)]

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
                arrival = self._arriving.get(prompt_id)
                if found is None and arrival is not None and owner in (None, arrival.owner):
                    arrival.interrupted = True
                    return True
            return sum(self._interrupt(job) for job in jobs if job.is_of(owner)) > 0

    def _interrupt(self, job: Job) -> bool:
        """Interrupt a job, unless how it ends is settled already."""
        if job.over.is_set():
            return False
        job.interrupted = True
        if job.prompt_id in self._running:
            self._stopping(job)
        return True

    def cancel(self, prompt_id: str, owner: str | None = None) -> bool:
        """Interrupt the job if it runs, take it out if it waits. Returns whether it did either.

        Under one lock: a job that starts meanwhile is interrupted, and no other ever is.
        """
        with self._condition:
            running, waiting = self._running.get(prompt_id), self._waiting.get(prompt_id)
            arrival = self._arriving.get(prompt_id)
            if running is not None and running.is_of(owner):
                return self._interrupt(running)
            if arrival is not None and owner in (None, arrival.owner):
                arrival.cancelled = True
                return True
            if waiting is None or not waiting.is_of(owner):
                return False
            del self._waiting[prompt_id]
            self._tidy()
            self._removed([prompt_id])
            self._report()
            return True

    # Control

    @property
    def paused(self) -> bool:
        """Whether nothing new is started. What runs goes on."""
        return self._paused

    def pause(self, paused: bool = True) -> bool:
        """Start nothing new, or go on. Returns whether that changes anything."""
        with self._condition:
            changes = self._paused is not paused
            self._paused = paused
            if changes:
                self._condition.notify_all()
                self._report()
            return changes

    def move(self, prompt_id: str, target: Target, owner: str | None = None) -> list[Job] | None:
        """Give a waiting job another place among those that its owner sees; None when it does not wait.

        Returns the jobs whose places changed. Raises BadInput for an anchor that does not wait.
        """
        with self._condition:
            job = self._waiting.get(prompt_id)
            if job is None or not job.is_of(owner):
                return None
            others = [one for one in self._ordered() if one is not job]
            seen = [one for one in others if one.is_of(owner)]
            index = find_index(target, [one.prompt_id for one in seen])
            if not seen:
                return []
            at = others.index(seen[index]) if index < len(seen) else others.index(seen[-1]) + 1
            before = others[at - 1].place if at else None
            after = others[at].place if at < len(others) else None
            place = between(job.place, before, after)
            if place is not None:
                return self._replace([(job, place)])
            # Not a number lies between the two any more: all get whole ranks again.
            ordered = [*others[:at], job, *others[at:]]
            job.number = others[at].number
            return self._replace(list(zip(ordered, spread([one.place for one in ordered]), strict=True)))

    def renumber(self, prompt_id: str, number: int | float, owner: str | None = None) -> list[Job] | None:
        """Give a waiting job another number; None when it does not wait. Returns the jobs whose places changed."""
        with self._condition:
            job = self._waiting.get(prompt_id)
            if job is None or not job.is_of(owner):
                return None
            return self._replace([(job, Place(number, job.rank or 0))])

    def _replace(self, places: list[tuple[Job, Place]]) -> list[Job]:
        """Give waiting jobs new places; those whose place is another one then."""
        changed = []
        for job, place in places:
            if repr(job.place) != repr(place):
                job.number, job.rank = place
                self._push(job)
                changed.append(job)
        if changed:
            self._tidy()
            self._report()
        return changed

    def _ordered(self) -> list[Job]:
        """The waiting jobs, next first."""
        return [entry[3] for entry in sorted(self._heap, key=lambda entry: entry[:3]) if self._stands(entry)]

    def _stands(self, entry: tuple[float, float, int, Job]) -> bool:
        """Whether a heap entry is that of a waiting job at the place that it has now."""
        job = entry[3]
        return self._waiting.get(job.prompt_id) is job and job.turn == entry[2]

    def _tidy(self) -> None:
        """Drop removed jobs from the heap once they are most of it."""
        if len(self._heap) > 2 * len(self._waiting) + 16:
            self._heap = [entry for entry in self._heap if self._stands(entry)]
            heapq.heapify(self._heap)

    def _report(self) -> None:
        self._changed(len(self._waiting) + len(self._running))
