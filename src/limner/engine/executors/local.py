"""Running a prompt in this thread: ready nodes one after another, results from and into the cache, events out."""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from limner.engine.cache import Entry, ResultCache, Scoped
from limner.engine.checks import wait_for
from limner.engine.events import (
    Event,
    Executed,
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
)
from limner.engine.executors.calls import Called, Given, gather, start, unpack
from limner.engine.executors.doors import EngineRun
from limner.engine.executors.failures import (
    NodeFailed,
    NodeInputError,
    frames,
    is_out_of_memory,
    message,
    shown_inputs,
    text_of,
    type_name,
)
from limner.engine.executors.functions import Functions, Prepared, call_companion
from limner.engine.executors.instances import Instances
from limner.engine.hub import EventHub
from limner.engine.progress import RunProgress
from limner.engine.queue import Job
from limner.errors import Interrupted, LimnerError
from limner.graph import CURRENT_RUN, Link, NodeCall, Plan, Registry, Schedule, Schema, Snapshot, parse, plan
from limner.graph.source import CompanionName

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """How a run ended: what goes into the history, and the event that says so."""

    status: str
    final: Event
    outputs: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    messages: list[list[Any]] = field(default_factory=list)

    def status_json(self) -> dict[str, Any]:
        """The `status` of the history entry."""
        good = self.status == "completed"
        return {"status_str": "success" if good else "error", "completed": good, "messages": self.messages}


class LocalExecutor:
    """Runs prompts in the thread that calls it, one at a time.

    settings, store: what nodes reach through their `Run`. memory: makes the memory manager when the first node that
    takes a Run needs it. Node modules are imported when a prompt first needs them.
    """

    def __init__(
        self,
        settings: Any,
        store: Any,
        registry: Registry,
        cache: ResultCache,
        memory: Callable[[], Any] | None = None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.registry = registry
        self.cache = cache
        self.functions = Functions(registry)
        self.instances = Instances()
        self._make_memory = memory
        self._memory: Any = None

    def memory_manager(self) -> Any:
        """The memory manager, made when first asked for; None in an engine without one."""
        if self._memory is None and self._make_memory is not None:
            self._memory = self._make_memory()
        return self._memory

    def execute(self, job: Job, hub: EventHub) -> Outcome:
        """Run a prompt to its end. Raises nothing: failures are outcomes."""
        return _PromptRun(self, job, hub).execute()

    def unload_models(self) -> None:
        """Give back the memory of loaded models, if any were loaded."""
        if self._memory is not None:
            self._memory.unload_all()

    def drop_results(self) -> None:
        """Forget every cached result and instance (rule C12)."""
        self.cache.clear()
        self.instances.clear()


class _PromptRun:
    """One run of one prompt."""

    def __init__(self, executor: LocalExecutor, job: Job, hub: EventHub) -> None:
        self.executor = executor
        self.job = job
        self.hub = hub
        self.client = job.client_id
        self.store = executor.store if job.owner is None else executor.store.of(job.owner)
        self.cache = executor.cache if job.owner is None else Scoped(executor.cache, job.owner)
        self.progress = RunProgress(job, hub, executor.settings.preview_size)
        self.results: dict[str, Entry] = {}
        self.executed: list[str] = []
        self.outputs: dict[str, Any] = {}
        self.meta: dict[str, Any] = {}
        self.messages: list[list[Any]] = []
        self.blockers = False
        self.at = ""
        self._stack = contextlib.ExitStack()
        self._inference = False
        self._ports: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
        self._prepared: dict[str, Prepared] = {}
        self.schemas = Snapshot(executor.registry)

    def execute(self) -> Outcome:
        """Run, and say how it ended."""
        self.note(ExecutionStart(self.job.prompt_id, self.client, now()))
        with self._stack:
            try:
                self.run()
                final: Event = ExecutionSuccess(self.job.prompt_id, self.client, now())
                status = "completed"
            except Interrupted:
                status, final = "cancelled", self.interruption()
            except NodeFailed as failed:
                if isinstance(failed.cause, Interrupted):
                    status, final = "cancelled", self.interruption()
                else:
                    status, final = "failed", self.failure(failed)
            except Exception as error:  # not a node's: the plan, the cache, a prompt from an older version
                status, final = "failed", self.failure(NodeFailed(self.at, self.kind(self.at), {}, error))
        self.hub.flush_state()
        self.messages.append([final.type, final.data()])
        return Outcome(status, final, self.outputs, self.meta, self.messages)

    def run(self) -> None:
        """Plan, then run node after node until none is left."""
        job, executor = self.job, self.executor
        self.prompt = job.parsed or parse(job.prompt, self.schemas)
        job.parsed = None
        executor.instances.begin(self.prompt)
        self.plan: Plan = plan(self.prompt, job.outputs, self.schemas, self.fingerprint)
        signatures, cache = self.plan.signatures, self.cache
        cache.begin(set(signatures.values()))
        cached = [node for node in self.prompt if cache.get(signatures[node]) is not None]
        self.note(ExecutionCached(job.prompt_id, self.client, tuple(cached), now()))
        self.at = job.outputs[0] if job.outputs else ""
        self.progress.check()
        self.schedule = Schedule(self.prompt, job.outputs, self.strong, self.find)
        while (node := self.schedule.next()) is not None:
            self.at = node
            if self.step(node):
                self.schedule.done(node)
        left = self.schedule.unfinished()
        if left:
            self.at = left[0]
            raise RuntimeError(f"Dependency cycle detected among the nodes {', '.join(left[:20])}")

    def step(self, node: str) -> bool:
        """Serve a node from the cache or run it. Returns False when it first needs others."""
        entry = self.find(node)
        if entry is not None:
            self.serve(node, entry)
            return True
        spec = self.prompt[node]
        self.progress.enter(node)
        if self.client is not None:
            self.hub.push(Executing(self.job.prompt_id, self.client, node, node))
        inputs: dict[str, list[Any]] = {}
        try:
            self.progress.check()
            prepared = self.prepared(spec.kind)
            self.enter_inference()
            if prepared.lazy and self.wait_for_lazy(node, spec, prepared):
                return False
            self.gather(node, spec, prepared, inputs)
            called, told = self.call(node, prepared, inputs)
        except BaseException as error:
            raise NodeFailed(node, spec.kind, inputs, error) from error
        self.finish(node, prepared, called, told)
        return True

    def call(self, node: str, prepared: Prepared, inputs: Mapping[str, list[Any]]) -> tuple[Called, str]:
        """Call a node for each mapped element; what it gave, and the message of a Blocker it received."""
        run = self.make_run(node)
        parameter, function = prepared.schema.run_parameter, prepared.function
        given = {**inputs, parameter: [run]} if parameter else inputs
        if prepared.source is not None:
            instance = self.executor.instances.get(node, node, self.prompt, prepared)
            function = prepared.source.function(prepared.schema.kind, instance)

        def enter(place: int) -> None:
            self.progress.check()
            CURRENT_RUN.set(run.at(place) if place or prepared.source is not None else run)

        try:
            started = start(prepared, function, given, self.blockers, enter)
            results = [one if isinstance(one, Given) else unpack(wait_for(one), prepared) for one in started.results]
        finally:
            CURRENT_RUN.set(None)
        return gather(results, prepared), started.told

    def prepared(self, kind: str) -> Prepared:
        """A kind ready to be called, as it is in this run."""
        found = self._prepared.get(kind)
        if found is None:
            found = self._prepared[kind] = self.executor.functions.get(kind, self.schemas)
        return found

    def finish(self, node: str, prepared: Prepared, called: Called, told: str) -> None:
        """Keep what a node gave, and tell it."""
        if called.ui is None:
            entry = Entry(called.outputs, blocked=called.blocked)
        else:
            meta = {"node_id": node, "display_node": node, "parent_node": None, "real_node_id": node}
            entry = Entry(called.outputs, called.ui, meta, called.blocked)
            self.show(node, entry)
            if self.client is not None:
                self.hub.push(Executed(self.job.prompt_id, self.client, node, node, called.ui))
        if told:
            self.tell_blocked(node, prepared.schema.kind, told)
        self.results[node] = entry
        self.cache.put(self.plan.signatures[node], entry)
        self.executed.append(node)
        self.progress.leave(node)

    def serve(self, node: str, entry: Entry) -> None:
        """A node whose result is there: only what it shows is told again (rules X5, C10)."""
        self.results[node] = entry
        self.show(node, entry)
        if self.client is not None:
            self.hub.push(Executed(self.job.prompt_id, self.client, node, node, entry.ui))
        self.progress.leave(node)

    def show(self, node: str, entry: Entry) -> None:
        """Put what a node shows into the history."""
        if entry.ui is not None:
            self.outputs[node] = entry.ui
            self.meta[node] = entry.meta

    def find(self, node: str) -> Entry | None:
        """The result of a node, of this run or kept from an earlier one."""
        return self.results.get(node) or self.cache.get(self.plan.signatures[node])

    # What a node is given

    def strong(self, _: str, spec: NodeCall) -> list[Link]:
        """The links that a node waits for: those of declared inputs that are neither lazy nor wanted as links."""
        ports, lazy = self.ports(spec.kind)
        return [
            value for name, value in spec.inputs.items() if type(value) is Link and name in ports and name not in lazy
        ]

    def ports(self, kind: str) -> tuple[frozenset[str], frozenset[str]]:
        """Names of a kind's inputs, and of those that do not block."""
        found = self._ports.get(kind)
        if found is None:
            schema = self.schemas.get(kind)
            inputs = () if schema is None else schema.inputs
            has_lazy = schema is not None and "lazy" in schema.companions
            free = frozenset(port.name for port in inputs if port.raw_link or (has_lazy and port.lazy))
            found = self._ports[kind] = frozenset(port.name for port in inputs), free
        return found

    def gather(self, node: str, spec: NodeCall, prepared: Prepared, inputs: dict[str, list[Any]]) -> None:
        """Every input as a list (rule M1): a link's list, a constant alone, what is filled in alone."""
        ports = prepared.ports
        for name, value in spec.inputs.items():
            if name not in ports:
                continue
            if type(value) is Link:
                if name in prepared.lazy and self.find(value.node) is None:
                    inputs[name] = [None]
                elif ports[name].raw_link:
                    inputs[name] = [list(value)]
                else:
                    inputs[name] = self.value_of(value)
            else:
                inputs[name] = [list(value) if type(value) is tuple else value]
        for name, marker in prepared.hidden:
            inputs[name] = [self.hidden(marker, node)]

    def value_of(self, link: Link) -> list[Any]:
        """The list of values that a link brings."""
        entry = self.find(link.node)
        if entry is None:
            raise NodeInputError(f"The result of node {link.node} is not there.")
        self.blockers = self.blockers or entry.blocked
        return entry.outputs[link.slot]

    def hidden(self, marker: str, node: str) -> Any:
        """What the engine fills in for a hidden input."""
        match marker:
            case "PROMPT":
                return self.job.prompt
            case "EXTRA_PNGINFO":
                return self.job.extra_data.get("extra_pnginfo")
            case "UNIQUE_ID":
                return node
            case "DYNPROMPT":
                return self.prompt
            case _:
                return self.job.sensitive.get(marker.lower())

    def make_run(self, node: str) -> EngineRun:
        """The node's door to the engine."""
        executor, extra = self.executor, self.job.extra_data.get("extra_pnginfo")
        return EngineRun(
            prompt_id=self.job.prompt_id,
            node_id=node,
            settings=executor.settings,
            store=self.store,
            memory_of=executor.memory_manager,
            sink=self.progress,
            prompt=self.job.prompt,
            extra_pnginfo=extra if isinstance(extra, dict) else None,
        )

    # Companions

    def fingerprint(self, node: str, spec: NodeCall, schema: Schema) -> Any:
        """What the kind's `changes_when` says; a failure is logged and never equal (rules I1 to I3)."""
        values: dict[str, Any] = dict.fromkeys(schema.hidden)
        values |= {name: {} for name, marker in schema.hidden.items() if marker == "PROMPT"}
        for name, value in spec.inputs.items():
            values[name] = None if type(value) is Link else list(value) if type(value) is tuple else value
        try:
            prepared = self.prepared(schema.kind)
            given = {name: [value] for name, value in values.items()} if schema.input_is_list else values
            return [self.ask(node, prepared, "changes_when", given)]
        except Exception:
            log.warning("Node %s (%s) could not say whether it has changed; it runs.", node, schema.kind, exc_info=True)
            return float("nan")

    def ask(self, node: str, prepared: Prepared, name: CompanionName, values: Mapping[str, Any]) -> Any:
        """Call a companion of a node, and wait for it if it is a coroutine (rule A5)."""
        instance = self.executor.instances.get(node, node, self.prompt, prepared)
        companion = prepared.companion(name, instance)
        if companion is None:
            raise LimnerError(f"{prepared.schema.kind} has no companion {name}, though its schema says so.")
        answer = call_companion(companion, values, lambda: self.make_run(node), prepared.source is not None)
        return wait_for(answer) if inspect.isawaitable(answer) else answer

    def wait_for_lazy(self, node: str, spec: NodeCall, prepared: Prepared) -> bool:
        """Ask which lazy inputs are needed (rules L1 to L5). Returns True when the node must wait for some."""
        inputs: dict[str, list[Any]] = {}
        values: dict[str, Any] = {}
        whole = prepared.schema.input_is_list
        self.gather(node, spec, prepared, inputs)
        for name, found in inputs.items():
            values[name] = tuple(found) if whole else found[0]
        for name in prepared.lazy:
            values.setdefault(name, (None,) if whole else None)
        asked = self.ask(node, prepared, "lazy", values)
        needed: list[str] = []
        for name in (one for one in asked or () if one is not None):
            value = spec.inputs.get(name)
            if type(value) is not Link:
                raise NodeInputError(f"{spec.kind} asked for its input {name}, which is not linked.")
            needed.append(value.node)
        return self.schedule.require(node, needed)

    # How it ends

    def tell_blocked(self, node: str, kind: str, text: str) -> None:
        """Tell the client why a branch does not run. The run goes on, and its history says nothing (rule B2)."""
        if self.client is not None:
            said = f"Execution Blocked: {text}"
            self.hub.push(
                ExecutionError(
                    self.job.prompt_id,
                    self.client,
                    node_id=node,
                    node_type=kind,
                    exception_message=said,
                    exception_type="ExecutionBlocked",
                )
            )

    def interruption(self) -> ExecutionInterrupted:
        """The event of an interrupted run. It reaches everyone when the prompt has no client (rule R4)."""
        return ExecutionInterrupted(
            self.job.prompt_id, self.client, self.at, self.kind(self.at), tuple(self.executed), now()
        )

    def failure(self, failed: NodeFailed) -> ExecutionError:
        """The event of a failed run."""
        error = failed.cause
        log.error("Node %s (%s) failed: %s", failed.node, failed.kind, text_of(error), exc_info=error)
        if failed.node:
            self.progress.leave(failed.node, "error")
        report = ExecutionError(
            self.job.prompt_id,
            self.client,
            node_id=failed.node,
            node_type=failed.kind,
            executed=tuple(self.executed),
            exception_message=message(error),
            exception_type=type_name(error),
            traceback=frames(error),
            current_inputs=shown_inputs(failed.inputs),
            current_outputs=list(self.job.prompt),
            timestamp=now(),
        )
        if is_out_of_memory(error):
            self.executor.unload_models()
        return report

    def kind(self, node: str) -> str:
        """The kind of a node of the prompt."""
        plain = self.job.prompt.get(node)
        kind = plain.get("class_type") if isinstance(plain, Mapping) else None
        return kind if isinstance(kind, str) else ""

    def note(self, event: ExecutionStart | ExecutionCached) -> None:
        """Tell the client and write it into the history."""
        self.messages.append([event.type, event.data()])
        if self.client is not None:
            self.hub.push(event)

    def enter_inference(self) -> None:
        """Run the rest of the prompt without gradients, from when torch is there (rule Q1)."""
        if self._inference or "torch" not in sys.modules:
            return
        torch = sys.modules["torch"]
        if not getattr(torch.__spec__, "_initializing", False):  # another thread may be importing it
            self._stack.enter_context(torch.inference_mode())
            self._inference = True


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
