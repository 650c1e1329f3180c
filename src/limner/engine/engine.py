"""The engine: prompts in, runs, events and history out. One per process, or several; nothing is global."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from limner.engine.cache import ResultCache, make_cache
from limner.engine.checks import run_checks
from limner.engine.control import QueueControl
from limner.engine.disk import open_disk_cache
from limner.engine.events import Event, Executing, StatusChanged
from limner.engine.executors.functions import Functions
from limner.engine.executors.local import Describe, LocalExecutor, Outcome, now
from limner.engine.files import StoreFiles
from limner.engine.history import History
from limner.engine.hub import EventHub
from limner.engine.jobs import Jobs
from limner.engine.plain import plain
from limner.engine.queue import Job, Queue
from limner.engine.registry import NodeRegistry
from limner.engine.replay import Replay
from limner.engine.stats import Stats
from limner.engine.submit import Checked, Request, check_prompt, is_heavy, read_request, reject
from limner.engine.worker import Executor, Worker
from limner.errors import BadInput, LimnerError
from limner.graph import FileLookup, Run, Schema
from limner.store import JobRecord

log = logging.getLogger(__name__)

LONGEST_PROBE = 2.0
"""Seconds within which the database must write for the engine to be ready."""
LONGEST_END = 10.0
"""Seconds that a running prompt is given to stop when the engine closes."""


@dataclass(frozen=True)
class Accepted:
    """A prompt that is in the queue, and on disk. node_errors: of outputs that are left out."""

    prompt_id: str
    number: int | float
    node_errors: dict[str, Any]


class Engine:
    """Runs prompts one after another.

    settings: `limner.settings.Settings`. store: where files and jobs are. registry: which nodes there are.
    executor: where nodes run; by default a thread of this process. memory: makes the memory manager that nodes reach
    as `run.memory`, called when the first node that takes a Run needs it. describe_memory: see `LocalExecutor`.

    Methods are for the event loop that `start` was called on, unless they say otherwise.
    """

    def __init__(
        self,
        settings: Any,
        store: Any,
        registry: NodeRegistry,
        executor: Executor | None = None,
        memory: Callable[[], Any] | None = None,
        describe_memory: Describe | None = None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.registry = registry
        self.events = EventHub()
        self.queue = Queue(
            changed=self._queue_changed,
            removed=self._removed,
            stopping=self._stopping,
            paused=bool(store.jobs.state("paused")),
        )
        self.control = QueueControl(self.queue, store.jobs)
        self.history = History(store.jobs)
        self.jobs = Jobs(self.queue, store.jobs)
        self._functions = Functions(registry)
        self._executor = executor or LocalExecutor(
            settings, store, registry, self._make_cache(), memory, describe_memory
        )
        self._worker = Worker(self.queue, self.events, self._executor, store.jobs, self._finished, settings.idle_unload)
        self._counter = 0
        self._replay = Replay()
        self.stats = Stats()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._describing: asyncio.Future[dict[str, Any] | None] | None = None
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._texts: dict[str, tuple[Schema, str]] = {}
        self.events.subscribe(self._replay.hear)
        self._queue_unfinished()

    def _make_cache(self) -> ResultCache:
        return open_disk_cache(make_cache(self.settings), self.settings, self.store, self.registry)

    def _queue_unfinished(self) -> None:
        """Queue again what was accepted before and has not ended (rule: nothing accepted is lost)."""
        for record in self.store.jobs.load_unfinished():
            job = Job(
                prompt_id=record.prompt_id,
                number=record.number,
                prompt=record.prompt,
                extra_data=record.extra_data,
                outputs=record.outputs_to_execute,
                create_time=record.create_time,
                owner=record.owner,
                rank=record.rank,
            )
            # New prompts come after these, as they would have without the restart.
            self._counter = max(self._counter, int(abs(record.number)) + 1)
            self.queue.put(job)

    async def start(self) -> None:
        """Begin to run prompts; events are delivered on this event loop."""
        self._loop = asyncio.get_running_loop()
        self.events.attach(self._loop)
        self._worker.start()

    async def close(self) -> None:
        """Stop. A running prompt is interrupted and stays unfinished in the store, as do those that wait."""
        if not await asyncio.to_thread(self._worker.stop, LONGEST_END):
            log.warning("A node does not end; it is left behind.")
        self.events.detach()

    # Prompts in

    async def submit(self, body: Any, owner: str | None = None) -> Accepted:
        """Take the body of a POST /prompt: an API prompt or a UI workflow under `prompt`.

        owner: the name of the API key that brings it. Returns once the prompt is on disk. Raises PromptRejected with
        the body of the 400.
        """
        place = self._counter
        if not isinstance(body, dict) or body.get("number") is None:
            self._counter += 1
        request = read_request(body)
        taken = owner is not None and self._is_anothers(request.prompt_id, owner)
        if taken or not self.queue.expect(request.prompt_id, owner):
            raise reject(
                "duplicate_prompt_id",
                "A prompt with this prompt_id is in the queue",
                f"prompt_id {request.prompt_id}. Send another, or none to have one made.",
            )
        try:
            checked = await self._check(request, owner)
        except BaseException:
            self.queue.dismiss(request.prompt_id)
            raise
        number: int | float = -place if request.front else place
        chosen = number if request.number is None else request.number
        keeping = asyncio.ensure_future(self._keep(request, checked, chosen, owner))
        try:
            job = await asyncio.shield(keeping)
        except asyncio.CancelledError:
            # What is on its way to the disk goes into the queue even if the asker has gone.
            keeping.add_done_callback(self._put_alone)
            raise
        # Last, and on the asker's own turn: its reply is written before the loop comes to the first event of the run.
        self.queue.put(job)
        return Accepted(request.prompt_id, chosen, checked.node_errors)

    def _put_alone(self, keeping: asyncio.Future[Job]) -> None:
        """Queue what was kept for an asker who has gone."""
        if not keeping.cancelled() and keeping.exception() is None:
            self.queue.put(keeping.result())

    def _is_anothers(self, prompt_id: str, owner: str) -> bool:
        """Whether the history has that id from someone else, whose entry would be replaced."""
        return self.history.get(prompt_id) is not None and self.history.get(prompt_id, owner) is None

    async def _check(self, request: Request, owner: str | None) -> Checked:
        store = self.store.of(owner)
        files, run = StoreFiles(store), partial(self._run_checks, store)
        if is_heavy(request, self._needs_code):
            return await asyncio.to_thread(check_prompt, request, self.registry, files, run)
        return check_prompt(request, self.registry, files, run)

    async def _keep(self, request: Request, checked: Checked, number: int | float, owner: str | None) -> Job:
        """Write a prompt to the disk. Raises PromptRejected when it cannot be kept."""
        created = now()
        extra_data = {**request.extra_data, "create_time": created}
        record = JobRecord(
            prompt_id=request.prompt_id,
            number=number,
            prompt=checked.prompt,
            extra_data=extra_data,
            outputs_to_execute=checked.outputs,
            create_time=created,
            owner=owner,
        )
        try:
            commit = self.store.jobs.add(record)
            await commit
        except BaseException as error:
            self.queue.dismiss(request.prompt_id)
            if isinstance(error, BadInput):
                raise reject("invalid_prompt", error.what, f"{error.why} {error.do}".strip()) from error
            raise
        return Job(
            prompt_id=request.prompt_id,
            number=number,
            prompt=checked.prompt,
            extra_data=extra_data,
            outputs=checked.outputs,
            create_time=created,
            sensitive=request.sensitive,
            parsed=checked.parsed,
            owner=owner,
            rank=commit.row,
        )

    def _needs_code(self, kind: str) -> bool:
        if self.registry.source(kind) is not None:
            return True  # a pack's class is asked for its inputs
        schema = self.registry.get(kind)
        return schema is not None and "checks" in schema.companions

    def _run_checks(self, store: Any, schema: Schema, constants: Mapping[str, Any], received: Mapping[str, str]) -> Any:
        """Call a kind's `checks` companion, with a Run that knows settings and store only (rule V11)."""

        def make_run() -> Run:
            return Run("", "", self.settings, store, None, _NoProgress())

        return run_checks(self._functions, make_run, schema, constants, received)

    async def wait(self, prompt_id: str) -> dict[str, Any] | None:
        """Wait until a prompt is no longer in the queue; its history entry, None if it was taken out or is unknown."""
        self._loop = self._loop or asyncio.get_running_loop()  # it may not have been started yet
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiters.setdefault(prompt_id, []).append(future)
        if prompt_id not in self.queue:
            self._wake(prompt_id)
        await future
        return await asyncio.to_thread(self.history.get, prompt_id)

    # While it runs

    def interrupt(self, prompt_id: str | None = None, owner: str | None = None) -> bool:
        """End the running prompt, or the one of that id. On an idle queue nothing is remembered for a later one."""
        return self.queue.interrupt(prompt_id, owner)

    def free(self, unload_models: bool = False, free_memory: bool = False) -> None:
        """After the running prompt, or at once, unload models; with free_memory forget cached results too."""
        self._worker.free(unload_models, free_memory)

    async def freed(self, unload_models: bool = False, free_memory: bool = False, within: float = 30.0) -> bool:
        """Ask for the same, and wait until it is done; False when that takes longer than `within` seconds.

        What a running prompt does not need goes at once, the rest when it is over, whether or not someone waits.
        """
        done = asyncio.wrap_future(self._worker.free(unload_models, free_memory))
        if not (unload_models or free_memory) or not self._worker.is_alive():
            return True
        sparing = asyncio.ensure_future(asyncio.to_thread(self._worker.spare, unload_models, free_memory))
        _, left = await asyncio.wait((done, sparing), timeout=within)
        return not left

    def use_memory(self, manager: Any) -> None:
        """This is the memory manager, though it was not made for a node."""
        if isinstance(self._executor, LocalExecutor):
            self._executor.use_memory(manager)

    async def describe_memory(self) -> dict[str, Any] | None:
        """What is where in memory, as `limner.memory.report` says it; None as long as nothing was loaded."""
        if not isinstance(self._executor, LocalExecutor):
            return None
        if self._describing is None or self._describing.done():
            # One for all who ask meanwhile: it waits while a model is being loaded, and must not fill the thread pool.
            self._describing = asyncio.ensure_future(asyncio.to_thread(self._executor.describe_memory))
        return await asyncio.shield(self._describing)

    def current(self, client_id: str) -> Executing | None:
        """The node that runs now, for a client that connects late, if the running prompt is its."""
        return self._replay.executing(client_id)

    def replay(self, client_id: str) -> list[Event]:
        """What a client that connects late hears of the running prompt: its start, and the latest state of it."""
        return self._replay.of(client_id)

    def _stopping(self, job: Job) -> None:
        self._worker.see_to_its_end(job)

    def _queue_changed(self, remaining: int) -> None:
        self.events.push(StatusChanged("", None, remaining))

    def _removed(self, prompt_ids: list[str]) -> None:
        """Waiting prompts were taken out of the queue."""
        self.store.jobs.remove(prompt_ids)
        for prompt_id in prompt_ids:
            self._gone(prompt_id)

    async def ready(self) -> dict[str, bool]:
        """What must be so for prompts to be taken and run, and whether it is."""
        found = {"engine": self._worker.is_alive(), "database": True}
        try:
            await asyncio.wait_for(self.store.jobs.probe(), LONGEST_PROBE)
        except (LimnerError, TimeoutError, asyncio.TimeoutError):
            found["database"] = False
        return found

    def _finished(self, job: Job, outcome: Outcome) -> None:
        """Called after each prompt, in the thread that ended it."""
        self.stats.ended(outcome.status, getattr(outcome, "explain", None))
        if self._waiters or job.client_id is None:
            self._gone(job.prompt_id)

    def _gone(self, prompt_id: str) -> None:
        if self._loop is not None and (self._waiters or self._replay):
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._wake, prompt_id)

    def _wake(self, prompt_id: str) -> None:
        self._replay.forget(prompt_id)
        for future in self._waiters.pop(prompt_id, ()):
            if not future.done():
                future.set_result(None)

    # What there is

    def object_info(self, kind: str | None = None, owner: str | None = None) -> dict[str, Any]:
        """The description of every node kind, or of one; {} for one that is not there. owner: whose files it names."""
        files = StoreFiles(self.store.of(owner))
        kinds = self.registry.kinds() if kind is None else [kind]
        found = {one: self._describe(one, files) for one in kinds}
        return {one: entry for one, entry in found.items() if entry is not None}

    def _describe(self, kind: str, files: FileLookup) -> dict[str, Any] | None:
        """The description of a kind; None, and logged, where a pack's class fails at it."""
        try:
            found = self.registry.describe(kind, files)
            return found if found is None or self.registry.source(kind) is None else plain(found)
        except Exception:
            log.exception("%s cannot be described; it is left out.", kind)
            return None

    def object_info_bytes(self, owner: str | None = None) -> bytes:
        """`object_info()` as JSON. Descriptions without file lists are made once."""
        files = StoreFiles(self.store.of(owner))
        parts: list[str] = []
        for kind in self.registry.kinds():
            schema = None if self.registry.source(kind) is not None else self.registry.get(kind)
            known = self._texts.get(kind)
            if known is not None and known[0] is schema:
                parts.append(known[1])
                continue
            entry = self._describe(kind, files)
            if entry is None:
                continue
            text = f"{json.dumps(kind)}: {json.dumps(entry)}"
            if schema is not None and not any(
                one.folder is not None or one.file_in is not None for one in schema.inputs
            ):
                self._texts[kind] = schema, text
            parts.append(text)
        return f"{{{', '.join(parts)}}}".encode()

    def preload(self) -> threading.Thread:
        """Import every node module in the background, so that the first prompt need not wait for it."""
        thread = threading.Thread(target=_import_all, args=(self.registry.homes(),), name="limner-preload", daemon=True)
        thread.start()
        return thread


def calm_collector() -> None:
    """Let the process's garbage collector look less often: for a program whose business is this engine.

    A prompt of 10,000 nodes is a hundred thousand small objects that all live; at Python's defaults collections take
    half of its time (benchmarks/graph_chain.py). Reference counts free nearly everything; `Worker` collects the rest.
    """
    gc.set_threshold(50_000, 20, 50)


def _import_all(modules: list[str]) -> None:
    start = time.monotonic()
    for module in modules:
        try:
            import_module(module)
        except Exception:  # noqa: PERF203 - one that cannot be imported says so again when it is used
            log.exception("%s cannot be imported.", module)
    # Modules live as long as the process: the garbage collector need not walk them again in the middle of a prompt.
    gc.collect()
    gc.freeze()
    log.debug("Node modules imported in %.1f s.", time.monotonic() - start)


class _NoProgress:
    """The progress of what does not run."""

    def progress(self, node_id: str, value: float, total: float, preview: Any | None = None) -> None:
        """Go on."""

    def check(self) -> None:
        """Go on."""

    def tell(self, node_id: str, text: str) -> None:
        """Go on."""
