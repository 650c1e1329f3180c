"""The thread that takes prompts from the queue, has them run, and puts them into the history."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from limner.engine.events import Event, Executing, ExecutionError, ExecutionInterrupted, ExecutionStart
from limner.engine.executors.failures import message, type_name
from limner.engine.executors.local import Outcome, now
from limner.engine.hub import EventHub
from limner.engine.queue import Job, Queue
from limner.engine.stopping import break_off, swallow
from limner.errors import Interrupted

log = logging.getLogger(__name__)

GC_INTERVAL = 10.0
"""Seconds between two collections of cyclic garbage after prompts."""
PATIENCE = 0.35
"""Seconds that an interrupted node is given to look at the interrupt by itself before it is broken off."""
LIMIT = 0.85
"""Seconds after which an interrupted prompt is over, whatever its node does."""


class Executor(Protocol):
    """Where prompts run."""

    def execute(self, job: Job, hub: EventHub) -> Outcome:
        """Run a prompt to its end and say how it ended; events on the way go to the hub. Raises nothing."""

    def unload_models(self) -> None:
        """Give back the memory of loaded models."""

    def drop_results(self) -> None:
        """Forget every cached result."""

    def trim(self) -> None:
        """Give memory that nothing is in back to the system."""

    def spare(self, unload_models: bool, free_memory: bool) -> None:
        """Do without what the running prompt does not need, as soon as may be. Any thread."""


class IdleClock:
    """Says once when no prompt has run for so many seconds since one did; never for 0 seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None

    def begun(self) -> None:
        """A prompt runs."""
        self._since = None

    def ended(self) -> None:
        """A prompt is over."""
        self._since = time.monotonic() if self._seconds else None

    def left(self) -> float | None:
        """Seconds until it is time; None where nothing is waited for."""
        return None if self._since is None else max(0.0, self._since + self._seconds - time.monotonic())

    def due(self) -> bool:
        """Whether it is time; once."""
        if self.left() != 0.0:
            return False
        self._since = None
        return True


class Hand:
    """A thread that runs prompts, and the prompt it has in hand."""

    def __init__(self, work: Callable[[Hand], object]) -> None:
        self.job: Job | None = None
        self.broken_off = False
        self.left_behind = False
        self.thread = threading.Thread(target=work, args=(self,), name="limner-worker", daemon=True)


class Worker:
    """One prompt at a time (rule Q1). finished: called after each prompt with the job and how it ended, in any thread.
    idle_unload: seconds without a prompt after which models are unloaded, 0 for never.

    A prompt that is interrupted is over within a second. Its node is asked, then broken off. One that cannot be, in a
    long call into C, is left behind: its thread ends when it returns, and another takes the next prompt.
    """

    def __init__(
        self,
        queue: Queue,
        hub: EventHub,
        executor: Executor,
        jobs: Any,
        finished: Callable[[Job, Outcome], object],
        idle_unload: float = 0.0,
    ) -> None:
        self._queue = queue
        self._hub = hub
        self._executor = executor
        self._jobs = jobs
        self._finished = finished
        self._lock = threading.Lock()
        self._unload = False
        self._drop = False
        self._freed: list[Future[None]] = []
        self._idle = IdleClock(idle_unload)
        self._collected = time.monotonic()
        self._hand = Hand(self._work)

    def start(self) -> None:
        """Begin to take prompts."""
        self._hand.thread.start()

    def is_alive(self) -> bool:
        """Whether prompts are taken."""
        return self._hand.thread.is_alive()

    def stop(self, timeout: float) -> bool:
        """Interrupt the running prompt and wait for the thread to end. Returns whether it has."""
        self._queue.close()
        self._queue.interrupt()
        if self._hand.thread.is_alive():
            self._hand.thread.join(timeout)
        return not self._hand.thread.is_alive()

    def free(self, unload_models: bool, free_memory: bool) -> Future[None]:
        """After the running prompt, or at once, unload models; with free_memory forget results too.

        What is returned is done once that is.
        """
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # whoever waits may leave; it is done all the same
        with self._lock:
            self._unload = self._unload or unload_models
            self._drop = self._drop or free_memory
            self._freed.append(done)
        self._queue.wake()
        return done

    def spare(self, unload_models: bool, free_memory: bool) -> None:
        """Free at once what the running prompt does not need. Waits for the device; any thread."""
        if self._queue.running_jobs():
            self._executor.spare(unload_models, free_memory)

    def _work(self, hand: Hand) -> None:
        while not hand.left_behind:
            job = self._queue.take(self._idle.left())
            if self._queue.closed:
                break
            if job is not None:
                self._run(hand, job)
            elif self._idle.due():
                self._unload = True
            if not hand.left_behind:
                self._tidy()
        if hand.left_behind:
            self._hub.unmute(threading.get_ident())
            log.info("A node that was left behind has ended.")
            return
        # An engine that ended must not keep gigabytes of weights alive in a process that goes on.
        self.free(unload_models=True, free_memory=True)
        self._tidy()

    def _run(self, hand: Hand, job: Job) -> None:
        self._idle.begun()
        self._jobs.start(job.prompt_id)
        hand.job = job
        if job.interrupted:
            self.see_to_its_end(job)
        try:
            outcome = self._executor.execute(job, self._hub)
            self._lay_down(hand)
        except Interrupted:
            outcome = interrupted(job, "")
        except BaseException as error:  # a fault of ours: it must cost one prompt, never the queue
            log.exception("The run of prompt %s broke.", job.prompt_id)
            outcome = broken(job, error)
        if hand.job is not None:
            self._lay_down(hand)
        self._end(job, outcome)

    def _lay_down(self, hand: Hand) -> None:
        """From here on nothing is raised in this thread; what was on its way goes no further."""
        with self._lock:
            hand.job = None
        if hand.broken_off:
            hand.broken_off = False
            swallow()

    def _end(self, job: Job, outcome: Outcome) -> None:
        """Record how a prompt ended and tell it, unless that was done already."""
        if not self._queue.settle(job):
            return
        self._idle.ended()
        if self._queue.closed and outcome.status == "cancelled":
            return  # the process ends: the prompt stays unfinished in the store and runs again next time
        if job.interrupted and outcome.status == "completed":
            # Whoever was told that it is interrupted must find it so, though its last node was quicker.
            outcome = interrupted(job, "", outcome)
        explained = getattr(outcome, "explain", None)
        try:
            self._jobs.finish(
                job.prompt_id, outcome.status, outcome.outputs, outcome.meta, outcome.status_json(), explained
            )
        except Exception:
            log.exception("The end of prompt %s could not be recorded.", job.prompt_id)
        # In the history before it leaves the queue, and before anyone hears that it is over.
        if job.client_id is not None or isinstance(outcome.final, ExecutionInterrupted):
            self._hub.push(outcome.final)
        self._queue.done(job)
        if job.client_id is not None:
            self._hub.push(Executing(job.prompt_id, job.client_id))
        self._finished(job, outcome)

    # Interrupts

    def see_to_its_end(self, job: Job) -> None:
        """A running prompt was interrupted: it is over within a second from now. Any thread; returns at once."""
        threading.Thread(target=self._press, args=(job,), name="limner-interrupt", daemon=True).start()

    def _press(self, job: Job) -> None:
        deadline = time.monotonic() + LIMIT
        if job.over.wait(PATIENCE):
            return
        while time.monotonic() < deadline:
            with self._lock:
                thread = self._hand.thread.ident
                if self._hand.job is job and thread is not None and break_off(thread):
                    self._hand.broken_off = True
            if job.over.wait(0.1):
                return
        if not self._queue.closed:
            self._give_up(job)

    def _give_up(self, job: Job) -> None:
        """Say that the prompt is over although its node goes on."""
        with self._lock:
            hand = self._hand
            thread = hand.thread.ident
            if hand.job is not job or thread is None:
                return
            self._hub.mute(thread, job.prompt_id)
            # What may be broken off runs no line of Python any more, so the next prompt need not wait for it.
            if break_off(thread):
                hand.broken_off = hand.left_behind = True
                self._hand = Hand(self._work)
        log.warning("A node of prompt %s does not end when it is interrupted; it is left behind.", job.prompt_id)
        self._end(job, interrupted(job, ""))
        if hand.left_behind:
            self._hand.thread.start()

    def _tidy(self) -> None:
        with self._lock:
            unload, drop, freed = self._unload, self._drop, self._freed
            self._unload = self._drop = False
            self._freed = []
        try:
            if unload:
                self._executor.unload_models()
            if drop:
                self._executor.drop_results()
            if unload or drop:
                self._executor.trim()
        except Exception:
            log.exception("Memory could not be freed.")
        finally:
            for one in freed:
                one.set_result(None)
        if unload or drop:
            self._collected = time.monotonic()
        elif time.monotonic() - self._collected > GC_INTERVAL and not self._queue.remaining():
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


def interrupted(job: Job, node: str, ran: Outcome | None = None) -> Outcome:
    """The outcome of a run that was interrupted outside its nodes. ran: what it had got done by then."""
    final = ExecutionInterrupted(job.prompt_id, job.client_id, node, "", (), now())
    if ran is None:
        start = ExecutionStart(job.prompt_id, job.client_id, now())
        return Outcome("cancelled", final, messages=[[start.type, start.data()], [final.type, final.data()]])
    return Outcome("cancelled", final, ran.outputs, ran.meta, [*ran.messages[:-1], [final.type, final.data()]])
