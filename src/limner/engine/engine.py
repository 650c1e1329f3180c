"""The engine: prompts in, runs, events and history out. One per process, or several; nothing is global."""

from __future__ import annotations

import asyncio
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

from limner.engine.cache import make_cache
from limner.engine.events import Event, Executing, StatusChanged
from limner.engine.executors.functions import Functions, call_companion
from limner.engine.executors.local import LocalExecutor, now
from limner.engine.files import StoreFiles
from limner.engine.history import History
from limner.engine.hub import EventHub
from limner.engine.jobs import Jobs
from limner.engine.queue import Job, Queue
from limner.engine.submit import Checked, Request, check_prompt, is_heavy, read_request, reject
from limner.engine.worker import Executor, Worker
from limner.errors import BadInput
from limner.graph import Registry, Run, Schema, describe
from limner.store import JobRecord

log = logging.getLogger(__name__)

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
    as `run.memory`, called when the first node that takes a Run needs it.

    Methods are for the event loop that `start` was called on, unless they say otherwise.
    """

    def __init__(
        self,
        settings: Any,
        store: Any,
        registry: Registry,
        executor: Executor | None = None,
        memory: Callable[[], Any] | None = None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.registry = registry
        self.events = EventHub()
        self.queue = Queue(changed=self._queue_changed, removed=self._removed)
        self.history = History(store.jobs)
        self.jobs = Jobs(self.queue, store.jobs)
        self._functions = Functions(registry)
        chosen = executor or LocalExecutor(settings, store, registry, make_cache(settings), memory)
        self._worker = Worker(self.queue, self.events, chosen, store.jobs, self._finished)
        self._counter = 0
        self._accepting: set[str] = set()
        self._current: Executing | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._texts: dict[str, tuple[Schema, str]] = {}
        self.events.subscribe(self._remember)
        self._queue_unfinished()

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
        if taken or request.prompt_id in self.queue or request.prompt_id in self._accepting:
            raise reject(
                "duplicate_prompt_id",
                "A prompt with this prompt_id is in the queue",
                f"prompt_id {request.prompt_id}. Send another, or none to have one made.",
            )
        self._accepting.add(request.prompt_id)
        try:
            checked = await self._check(request, owner)
            number: int | float = -place if request.front else place
            # Shielded: what is on its way to the disk goes into the queue even if the asker has gone.
            chosen = number if request.number is None else request.number
            return await asyncio.shield(self._accept(request, checked, chosen, owner))
        finally:
            self._accepting.discard(request.prompt_id)

    def _is_anothers(self, prompt_id: str, owner: str) -> bool:
        """Whether the history has that id from someone else, whose entry would be replaced."""
        return self.history.get(prompt_id) is not None and self.history.get(prompt_id, owner) is None

    async def _check(self, request: Request, owner: str | None) -> Checked:
        store = self.store.of(owner)
        files, run = StoreFiles(store), partial(self._run_checks, store)
        if is_heavy(request, self._needs_code):
            return await asyncio.to_thread(check_prompt, request, self.registry, files, run)
        return check_prompt(request, self.registry, files, run)

    async def _accept(self, request: Request, checked: Checked, number: int | float, owner: str | None) -> Accepted:
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
            await self.store.jobs.add(record)
        except BadInput as error:
            raise reject("invalid_prompt", error.what, f"{error.why} {error.do}".strip()) from error
        self.queue.put(
            Job(
                prompt_id=request.prompt_id,
                number=number,
                prompt=checked.prompt,
                extra_data=extra_data,
                outputs=checked.outputs,
                create_time=created,
                sensitive=request.sensitive,
                parsed=checked.parsed,
                owner=owner,
            )
        )
        return Accepted(request.prompt_id, number, checked.node_errors)

    def _needs_code(self, kind: str) -> bool:
        schema = self.registry.get(kind)
        return schema is not None and "checks" in schema.companions

    def _run_checks(self, store: Any, schema: Schema, constants: Mapping[str, Any], received: Mapping[str, str]) -> Any:
        """Call a kind's `checks` companion, with a Run that knows settings and store only (rule V11)."""
        companion = self._functions.get(schema.kind).companions["checks"]
        values = {**constants, "input_types": dict(received)}

        def make_run() -> Run:
            return Run("", "", self.settings, store, None, _NoProgress())

        return call_companion(companion, values, make_run)

    async def wait(self, prompt_id: str) -> dict[str, Any] | None:
        """Wait until a prompt is no longer in the queue; its history entry, None if it was taken out or is unknown."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(prompt_id, []).append(future)
        if prompt_id not in self.queue:
            self._wake(prompt_id)
        await future
        return self.history.get(prompt_id)

    # While it runs

    def interrupt(self, prompt_id: str | None = None, owner: str | None = None) -> bool:
        """End the running prompt, or the one of that id. On an idle queue nothing is remembered for a later one."""
        return self.queue.interrupt(prompt_id, owner)

    def free(self, unload_models: bool = False, free_memory: bool = False) -> None:
        """After the running prompt, or at once, unload models; with free_memory forget cached results too."""
        self._worker.free(unload_models, free_memory)

    def current(self, client_id: str) -> Executing | None:
        """The node that runs now, for a client that connects late, if the running prompt is its."""
        current = self._current
        return current if current is not None and current.client_id == client_id else None

    def _remember(self, event: Event) -> None:
        if type(event) is Executing:
            self._current = None if event.node is None else event

    def _queue_changed(self, remaining: int) -> None:
        self.events.push(StatusChanged("", None, remaining))

    def _removed(self, prompt_ids: list[str]) -> None:
        """Waiting prompts were taken out of the queue."""
        self.store.jobs.remove(prompt_ids)
        for prompt_id in prompt_ids:
            self._gone(prompt_id)

    def _finished(self, job: Job) -> None:
        """Called in the worker's thread after each prompt."""
        self._gone(job.prompt_id)

    def _gone(self, prompt_id: str) -> None:
        if self._waiters and self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake, prompt_id)

    def _wake(self, prompt_id: str) -> None:
        for future in self._waiters.pop(prompt_id, ()):
            if not future.done():
                future.set_result(None)

    # What there is

    def object_info(self, kind: str | None = None, owner: str | None = None) -> dict[str, Any]:
        """The description of every node kind, or of one; {} for one that is not there. owner: whose files it names."""
        files = StoreFiles(self.store.of(owner))
        kinds = self.registry.kinds() if kind is None else [kind]
        schemas = [schema for one in kinds if (schema := self.registry.get(one)) is not None]
        return {schema.kind: describe(schema, files) for schema in schemas}

    def object_info_bytes(self, owner: str | None = None) -> bytes:
        """`object_info()` as JSON. Descriptions without file lists are made once."""
        files = StoreFiles(self.store.of(owner))
        parts: list[str] = []
        for kind in self.registry.kinds():
            schema = self.registry.get(kind)
            if schema is None:
                continue
            known = self._texts.get(kind)
            if known is not None and known[0] is schema:
                parts.append(known[1])
                continue
            text = f"{json.dumps(kind)}: {json.dumps(describe(schema, files))}"
            if not any(port.folder is not None or port.file_in is not None for port in schema.inputs):
                self._texts[kind] = schema, text
            parts.append(text)
        return f"{{{', '.join(parts)}}}".encode()

    def preload(self) -> threading.Thread:
        """Import every node module in the background, so that the first prompt need not wait for it."""
        kinds = [schema for kind in self.registry.kinds() if (schema := self.registry.get(kind)) is not None]
        homes = list(dict.fromkeys(schema.home.partition(":")[0] for schema in kinds))
        thread = threading.Thread(target=_import_all, args=(homes,), name="limner-preload", daemon=True)
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
