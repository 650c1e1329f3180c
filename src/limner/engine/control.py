"""Control of the queue: pause, go on, re-order. What it changes is on disk when it answers."""

from __future__ import annotations

from typing import Any

from limner.engine.places import Target
from limner.engine.queue import Job, Queue
from limner.errors import LimnerError


class NotWaiting(LimnerError):
    """Only a prompt that waits has a place: this one runs or has ended."""


class QueueControl:
    """What people may do to the queue beyond putting in and taking out. owner: only that API key's prompts."""

    def __init__(self, queue: Queue, store: Any) -> None:
        self._queue = queue
        self._store = store

    def state(self, owner: str | None = None) -> dict[str, Any]:
        """The queue as it stands, next first, ready for JSON."""
        return {
            "paused": self._queue.paused,
            "running": [_shown(job) for job in self._queue.running_jobs(owner)],
            "pending": [
                {**_shown(job), "position": place} for place, job in enumerate(self._queue.pending_jobs(owner))
            ],
        }

    async def pause(self, paused: bool = True) -> bool:
        """Start nothing new until told to go on, over restarts too; what runs ends. Returns whether that changes it."""
        changes = self._queue.pause(paused)
        await self._store.set_state("paused", paused)
        return changes

    async def move(self, prompt_id: str, target: Target, owner: str | None = None) -> int:
        """Give a waiting prompt another place. Returns its position, 0 being next.

        Raises NotWaiting for a prompt that does not wait, BadInput for an anchor that does not.
        """
        return await self._kept(prompt_id, self._queue.move(prompt_id, target, owner), owner)

    async def renumber(self, prompt_id: str, number: int | float, owner: str | None = None) -> int:
        """Give a waiting prompt another number, lower first. Returns its position. Raises NotWaiting as `move`."""
        return await self._kept(prompt_id, self._queue.renumber(prompt_id, number, owner), owner)

    async def _kept(self, prompt_id: str, changed: list[Job] | None, owner: str | None) -> int:
        if changed is None:
            raise NotWaiting(f"The prompt {prompt_id!r:.80} does not wait.", do="Only waiting prompts have a place.")
        commits = [self._store.place(job.prompt_id, job.number, job.rank, job.item()) for job in changed]
        for commit in commits:
            await commit
        waiting = [job.prompt_id for job in self._queue.pending_jobs(owner)]
        return waiting.index(prompt_id) if prompt_id in waiting else 0


def _shown(job: Job) -> dict[str, Any]:
    return {"prompt_id": job.prompt_id, "number": job.number, "create_time": job.create_time}
