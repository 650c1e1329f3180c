"""The thread that takes prompts from the queue, has them run, and puts them into the history."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from limner.engine.events import Event, Executing, ExecutionError, ExecutionInterrupted
from limner.engine.executors.failures import message, type_name
from limner.engine.executors.local import Outcome, now
from limner.engine.hub import EventHub
from limner.engine.queue import Job, Queue

log = logging.getLogger(__name__)

GC_INTERVAL = 10.0
"""Seconds between two collections of cyclic garbage after prompts."""


class Executor(Protocol):
    """Where prompts run."""

    def execute(self, job: Job, hub: EventHub) -> Outcome:
        """Run a prompt to its end and say how it ended; events on the way go to the hub. Raises nothing."""

    def unload_models(self) -> None:
        """Give back the memory of loaded models."""

    def drop_results(self) -> None:
        """Forget every cached result."""


class Worker:
    """One thread, one prompt at a time (rule Q1). finished: called in it after each prompt, with the job."""

    def __init__(
        self, queue: Queue, hub: EventHub, executor: Executor, jobs: Any, finished: Callable[[Job], object]
    ) -> None:
        self._queue = queue
        self._hub = hub
        self._executor = executor
        self._jobs = jobs
        self._finished = finished
        self._lock = threading.Lock()
        self._unload = False
        self._drop = False
        self._collected = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="limner-worker", daemon=True)

    def start(self) -> None:
        """Begin to take prompts."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Interrupt the running prompt and wait for the thread to end. Returns whether it has."""
        self._queue.close()
        self._queue.interrupt()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def free(self, unload_models: bool, free_memory: bool) -> None:
        """After the running prompt, or at once, unload models; with free_memory forget results too."""
        with self._lock:
            self._unload = self._unload or unload_models
            self._drop = self._drop or free_memory
        self._queue.wake()

    def _work(self) -> None:
        while True:
            job = self._queue.take()
            if self._queue.closed:
                break
            if job is not None:
                self._run(job)
            self._tidy()
        # An engine that ended must not keep gigabytes of weights alive in a process that goes on.
        self.free(unload_models=True, free_memory=True)
        self._tidy()

    def _run(self, job: Job) -> None:
        self._jobs.start(job.prompt_id)
        try:
            outcome = self._executor.execute(job, self._hub)
        except BaseException as error:  # a fault of ours: it must cost one prompt, never the queue
            log.exception("The run of prompt %s broke.", job.prompt_id)
            outcome = broken(job, error)
        if self._queue.closed and outcome.status == "cancelled":
            return  # the process ends: the prompt stays unfinished in the store and runs again next time
        try:
            self._jobs.finish(job.prompt_id, outcome.status, outcome.outputs, outcome.meta, outcome.status_json())
        except Exception:
            log.exception("The end of prompt %s could not be recorded.", job.prompt_id)
        # In the history before it leaves the queue, and before anyone hears that it is over.
        if job.client_id is not None or isinstance(outcome.final, ExecutionInterrupted):
            self._hub.push(outcome.final)
        self._queue.done(job)
        if job.client_id is not None:
            self._hub.push(Executing(job.prompt_id, job.client_id))
        self._finished(job)

    def _tidy(self) -> None:
        with self._lock:
            unload, drop = self._unload, self._drop
            self._unload = self._drop = False
        try:
            if unload:
                self._executor.unload_models()
            if drop:
                self._executor.drop_results()
        except Exception:
            log.exception("Memory could not be freed.")
        if unload or drop or (time.monotonic() - self._collected > GC_INTERVAL and not self._queue.remaining()):
            gc.collect()
            self._collected = time.monotonic()


def broken(job: Job, error: BaseException) -> Outcome:
    """The outcome of a run that failed outside any node."""
    final: Event = ExecutionError(
        job.prompt_id,
        job.client_id,
        exception_message=message(error),
        exception_type=type_name(error),
        current_outputs=list(job.prompt),
        timestamp=now(),
    )
    return Outcome("failed", final, messages=[[final.type, final.data()]])
