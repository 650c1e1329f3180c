"""One run of one prompt: ready nodes one after another, results from and into the cache, events out."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import sys
from collections.abc import Container, Mapping
from dataclasses import dataclass
from threading import get_ident
from time import perf_counter
from typing import TYPE_CHECKING, Any

from limner.engine.cache import Entry, Made, Owner
from limner.engine.events import (
    Event,
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
)
from limner.engine.executors.calls import Called, Given, gather, merged_ui, resolve, start, unpack
from limner.engine.executors.doors import EngineRun
from limner.engine.executors.failures import (
    NodeFailed,
    ResultGone,
    UnknownKind,
    frames,
    is_out_of_memory,
    message,
    shown_inputs,
    text_of,
    type_name,
)
from limner.engine.executors.functions import Prepared, call_companion
from limner.engine.executors.outcome import Outcome, now
from limner.engine.executors.shows import Shows
from limner.engine.executors.tasks import Loops, Tasks, take_loop
from limner.engine.progress import RunProgress
from limner.errors import Interrupted, LimnerError
from limner.graph import (
    CURRENT_RUN,
    Blocker,
    DependencyCycleError,
    DynamicPrompt,
    Link,
    Listed,
    NodeCall,
    NodeInputError,
    Schedule,
    Schema,
    Snapshot,
    parse,
)
from limner.graph.dynamic import read_link
from limner.graph.signatures import Signer
from limner.graph.source import CompanionName

if TYPE_CHECKING:
    from limner.engine.executors.local import LocalExecutor
    from limner.engine.hub import EventHub
    from limner.engine.queue import Job

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Pending:
    """A node that was called and may not be over: its coroutines run, or the graph it returned does.

    results: what each call gave, or its task. told: the message of a Blocker that it received. began: when it was
    entered, by the performance counter. plain: it was called once and is over. expanded: it has returned a graph.
    """

    prepared: Prepared
    inputs: dict[str, list[Any]]
    results: list[Any]
    told: str
    began: float
    plain: bool = False
    expanded: bool = False


class PromptRun:
    """One run of one prompt."""

    def __init__(self, executor: LocalExecutor, job: Job, hub: EventHub) -> None:
        self.executor = executor
        self.job = job
        self.hub = hub
        self.client = job.client_id
        self.store = executor.store if job.owner is None else executor.store.of(job.owner)
        self.cache = executor.cache
        self.schemas = Snapshot(executor.registry)
        self.dynamic = DynamicPrompt(job.prompt)
        self.progress = RunProgress(job, hub, executor.settings.preview_size, self.dynamic.made)
        self.results: dict[str, Entry] = {}
        self.executed: list[str] = []
        self.shows = Shows(job, hub, self.dynamic)
        self.messages: list[list[Any]] = []
        self.explained: dict[str, Any] = {}
        self.tasks = Tasks()
        self.pending: dict[str, Pending] = {}
        self.blockers = False
        self.at = ""
        self.stored = job.prompt
        self._shared = self.share()
        self._stack = contextlib.ExitStack()
        self._inference = False
        self._by_origin = False
        self._on_loop = False
        self._ports: dict[str, tuple[Container[str], frozenset[str]]] = {}
        self._prepared: dict[str, Prepared] = {}
        self._fingerprints: dict[str, Any] = {}
        self._holds: dict[str, int] = {}
        self._needs: dict[str, list[Link]] = {}
        self._once_made: dict[str, set[str]] = {}
        self.thread = get_ident()

    def execute(self) -> Outcome:
        """Run, and say how it ended."""
        self.note(ExecutionStart(self.job.prompt_id, self.client, now()))
        with self._stack:
            try:
                Loops().drive(self.main())
                final: Event = ExecutionSuccess(self.job.prompt_id, self.client, now())
                status = "completed"
            except Interrupted:
                status, final = "cancelled", self.interruption()
            except NodeFailed as failed:
                if isinstance(failed.cause, Interrupted):
                    self.at = failed.node
                    status, final = "cancelled", self.interruption()
                else:
                    status, final = "failed", self.failure(failed)
            except (Exception, SystemExit, asyncio.CancelledError) as error:
                # Not a node's: the plan, the cache, a prompt from an older version; or a task that ends the process.
                status, final = "failed", self.failure(NodeFailed(self.at, "", {}, error))
        self.results.clear()  # a run refers to itself: what it holds would stay until Python collects garbage
        self.hub.flush_state()
        self.messages.append([final.type, final.data()])
        return Outcome(status, final, self.shows.outputs, self.shows.meta, self.messages, {"nodes": self.explained})

    async def main(self) -> None:
        """Plan, then run node after node until none is left."""
        try:
            await self.begin()
            schedule = self.schedule
            self.executor.running = self
            while True:
                node = schedule.next()
                if node is None:
                    if not self.tasks:
                        break
                    await self.wait()
                    continue
                self.at = node
                if await self.step(node):
                    schedule.done(node)
                    if self.executor.wants_room:
                        self.executor.make_room(self)
                if self._on_loop:
                    await self.turn()
            left = schedule.unfinished()
            if left:
                self.refuse_cycle(schedule.cycle() or left)
        finally:
            if self.executor.running is self:
                self.executor.running = None
            if self._on_loop:
                await self.tasks.cancel()

    async def begin(self) -> None:
        """Read the prompt, ask for fingerprints, sign every node, and schedule what the outputs need."""
        job, executor, cache = self.job, self.executor, self.cache
        self.prompt: dict[str, NodeCall] = dict(job.parsed or parse(job.prompt, self.schemas))
        job.parsed = None
        self.at = job.outputs[0] if job.outputs else ""
        executor.instances.begin(self.prompt, job.owner)
        executor.reasons.trim()
        await self.look_at_kinds(self.prompt)
        await self.take_fingerprints(self.prompt)
        salt = b"" if job.owner is None else b"o" + job.owner.encode()
        self._by_origin = hasattr(cache, "version")
        version, stamp = getattr(cache, "version", None), getattr(cache, "stamp", None)
        self.signer = Signer(self.prompt, self.schemas, self.fingerprint, salt, version, stamp)
        for node in self.prompt:
            self.signer.sign(node)
        signatures = self.signer.signatures
        cache.begin(set(signatures.values()), self.is_there)
        cached = [node for node in self.prompt if cache.has(signatures[node])]
        self.note(ExecutionCached(job.prompt_id, self.client, tuple(cached), now()))
        for node in cached:
            self.explained[node] = {"class_type": self.prompt[node].kind, "cached": True}
        self.progress.check()
        if executor.has_expanded:
            self.show_inner(cached)
        eager = self.eager if self._on_loop else None
        self.schedule = Schedule(self.prompt, job.outputs, self.strong, self.known, eager, self.gone)

    def is_there(self, owner: Owner) -> bool:
        """Whether the prompt has that node, and it is of that kind."""
        call = self.prompt.get(owner[0])
        return call is not None and call.kind == owner[1]

    async def look_at_kinds(self, calls: Mapping[str, NodeCall]) -> None:
        """Go on on an event loop if any of these nodes may need one: a coroutine, or a class of a pack."""
        if self._on_loop:
            return
        for kind in {call.kind for call in calls.values()}:
            schema = self.schemas.get(kind)
            if self.schemas.source(kind) is not None or (schema is not None and schema.asynchronous):
                self._on_loop = True
                await take_loop()
                return

    async def step(self, node: str) -> bool:
        """Serve a node from the cache or run it. Returns False when it first needs others."""
        pending = self.pending.pop(node, None) if self.pending else None
        entry = self.find(node) if pending is None else None
        if entry is not None:
            self.serve(node, entry)
            return True
        spec = self.prompt[node]
        inputs: dict[str, list[Any]] = {}
        try:
            if pending is None:
                self.progress.enter(node)
                if self.client is not None:
                    made = self.dynamic.made.get(node)
                    shown = node if made is None else made.display
                    self.hub.push(Executing(self.job.prompt_id, self.client, node, shown))
                self.progress.check()
                prepared = self._prepared.get(spec.kind) or self.prepared(spec.kind)
                if not self._inference:
                    self.enter_inference()
                if prepared.lazy and await self.wait_for_lazy(node, spec, prepared):
                    return False
                self.gather(node, spec, prepared, inputs)
                pending = self.call(node, prepared, inputs)
            else:
                inputs = pending.inputs
            if pending.plain:
                called = gather(pending.results, pending.prepared)
            else:
                found = await self.collect(node, pending)
                if found is None:
                    return False
                called = found
        except ResultGone as gone:
            if pending is not None:
                self.pending[node] = pending
            if self.schedule.require(node, [gone.node]):
                return False
            raise NodeFailed(node, spec.kind, inputs, gone) from gone
        except BaseException as error:
            raise NodeFailed(node, spec.kind, inputs, error) from error
        self.finish(node, pending, called)
        return True

    def call(self, node: str, prepared: Prepared, inputs: dict[str, list[Any]]) -> Pending:
        """Call a node for each mapped element."""
        run = EngineRun(self._shared, node)
        began = perf_counter()
        try:
            if prepared.simple and not self.blockers and all(len(values) == 1 for values in inputs.values()):
                CURRENT_RUN.set(run)
                given = unpack(prepared.function(**{name: values[0] for name, values in inputs.items()}), prepared)
                return Pending(prepared, inputs, [given], "", began, given.expansion is None)
            parameter, function = prepared.schema.run_parameter, prepared.function
            given_inputs = {**inputs, parameter: [run]} if parameter else inputs
            if prepared.source is not None:
                function = prepared.source.function(prepared.schema.kind, self.instance(node, prepared))

            def enter(place: int) -> None:
                self.progress.check()
                CURRENT_RUN.set(run.at(place) if place else run)

            started = start(prepared, function, given_inputs, self.blockers, enter, self.tasks.begin)
        finally:
            CURRENT_RUN.set(None)
        return Pending(prepared, inputs, started.results, started.told, began)

    async def collect(self, node: str, pending: Pending) -> Called | None:
        """What the calls of a node gave. Returns None when the node is parked: for its coroutines, or its graph."""
        prepared, results = pending.prepared, pending.results
        if pending.expanded:
            return resolve(results, prepared, self.values_behind)
        tasks = [one for one in results if type(one) is not Given]
        if tasks:
            if not all(task.done() for task in tasks):
                await self.tasks.turn()  # one turn of the loop: what does not really wait is done by then
            if not all(task.done() for task in tasks) and not any(failed(task) for task in tasks):
                self.pending[node] = pending
                self.tasks.park(node, tasks)
                return None
            for task in tasks:
                if failed(task):
                    task.result()  # raises
            pending.results = results = [
                one if type(one) is Given else unpack(one.result(), prepared) for one in results
            ]
        if any(given.expansion is not None for given in results) and await self.expand(node, pending):
            return None
        return resolve(results, prepared, self.values_behind) if pending.expanded else gather(results, prepared)

    async def turn(self) -> None:
        """Let coroutines go on, and take up the nodes whose are done."""
        if self.tasks:
            await self.tasks.turn()
        for node in self.tasks.returned():
            self.schedule.resume(node)

    async def wait(self) -> None:
        """Nothing else is ready: wait for coroutines."""
        first = self.tasks.first()
        try:
            await self.tasks.wait(self.progress.check)
        except Interrupted as error:
            raise NodeFailed(first, self.prompt[first].kind, {}, error) from error
        await self.turn()

    # Graphs that nodes return

    async def expand(self, node: str, pending: Pending) -> bool:
        """Take in the graphs that calls of a node gave. Returns whether it must wait for some of their nodes."""
        pending.expanded = True
        made: dict[str, NodeCall] = {}
        needed: list[str] = []
        for given in pending.results:
            if given.expansion is None:
                continue
            made |= self.dynamic.grow(node, given.expansion, self._once_made.get(node, set()) - made.keys())
            needed += [link.node for value in given.values if (link := read_link(value)) is not None]
        ui = merged_ui(pending.results)
        if ui is not None:  # at once, not when the graph has run (rule G8)
            self.shows.note(node, Entry((), ui, self.shows.identity(node)))
            self.shows.tell(node, ui)
        self.executor.has_expanded = True
        self._once_made[node] = set(made)
        for one, call in made.items():
            if call.kind not in self.schemas:
                raise UnknownKind(call.kind, one)
            self.prompt[one] = call
        await self.look_at_kinds(made)
        await self.take_fingerprints(made)
        mark = f"{node}\n{self.prompt[node].kind}".encode()
        self.signer.owners.update(dict.fromkeys(made, mark))
        for one in made:
            self.signer.sign(one)
        outputs = [one for one, call in made.items() if self.is_output(call.kind)]
        wanted = [*dict.fromkeys(one for one in needed if one in self.prompt), *outputs]
        if not self.cache.steady:
            self.hold(node, [Link(one, 0) for one in wanted])
        self.pending[node] = pending
        if self.schedule.require(node, wanted, outputs):
            return True
        del self.pending[node]
        return False

    def values_behind(self, value: Any) -> list[Any] | None:
        """The values that a link in a result brings, None for what is no link."""
        link = read_link(value)
        return None if link is None or link.node not in self.prompt else self.value_of(link)

    def is_output(self, kind: str) -> bool:
        """Whether a kind is an output node."""
        schema = self.schemas.get(kind)
        return schema is not None and schema.output_node

    def refuse_cycle(self, members: list[str]) -> None:
        """Nodes wait for each other: name them, and blame the first that an expansion made (rule R5)."""
        made = self.dynamic.made
        blamed = next((made[node].display for node in members if node in made), members[0])
        way = " → ".join([*members[:20], members[0]])
        error = DependencyCycleError(f"Dependency cycle detected: {way}")
        raise NodeFailed(blamed, self.kind(blamed), {}, error)

    # What a node gave

    def finish(self, node: str, pending: Pending, called: Called) -> None:
        """Keep what a node gave, and tell it."""
        kind = pending.prepared.schema.kind
        seconds = perf_counter() - pending.began
        inner = self.shows.below(node)
        if called.ui is None:
            entry = Entry(called.outputs, blocked=called.blocked, inner=inner)
        else:
            entry = Entry(called.outputs, called.ui, self.shows.identity(node), called.blocked, inner)
            if not pending.expanded:
                self.shows.note(node, entry)
                self.shows.tell(node, called.ui)
        if pending.told:
            self.tell_blocked(node, kind, pending.told)
        self.results[node] = entry
        self.keep(node, entry, seconds, pending.prepared.schema)
        self.executed.append(node)
        spec, fingerprint = self.prompt[node], self._fingerprints.get(node)
        why = self.executor.reasons.ran(node, spec, self.signer.signatures, fingerprint)
        why["seconds"] = round(seconds, 6)
        self.explained[node] = why
        self.progress.leave(node)
        if not self.cache.steady:
            self.cache.poll(self.held)
            self.release(node)

    def keep(self, node: str, entry: Entry, seconds: float, schema: Schema) -> None:
        """Put a result into the cache, with what policies ask about it."""
        if not (self._by_origin or self.dynamic.made):
            self.cache.put(self.signer.signatures[node], entry)
            return
        made = self.dynamic.made.get(node)
        owner = None if made is None else (made.real, self.prompt[made.real].kind)
        lasting = not schema.not_idempotent and node not in self.signer.fleeting
        self.cache.put(self.signer.signatures[node], entry, Made(owner, seconds, lasting))

    def serve(self, node: str, entry: Entry) -> None:
        """A node whose result is there: only what it shows is told again (rules X5, C10)."""
        self.results[node] = entry
        self.explained.setdefault(node, {"class_type": self.prompt[node].kind, "cached": True})
        self.shows.served(node, entry)
        self.progress.leave(node)
        if not self.cache.steady:
            self.release(node)

    def show_inner(self, cached: list[str]) -> None:
        """What nodes showed that ran in the place of one that is cached now (rule C11)."""
        for node in cached:
            entry = self.cache.get(self.signer.signatures[node])
            if entry is not None:
                self.shows.again(node, entry)

    # Which results there are

    def find(self, node: str) -> Entry | None:
        """The result of a node, of this run or kept from an earlier one."""
        return self.results.get(node) or self.cache.get(self.signer.signatures[node])

    def known(self, node: str) -> bool | None:
        """True if the result of a node is there or can be had without running it, else None."""
        return node in self.results or self.cache.has(self.signer.signatures[node]) or None

    def gone(self, node: str) -> bool:
        """Whether the result of a node that has run was let go."""
        return node not in self.results and not self.cache.has(self.signer.signatures[node])

    def hold(self, node: str, links: list[Link]) -> None:
        """Keep these results until the node is over: this policy may drop them at any time."""
        self._needs.setdefault(node, []).extend(links)
        for link in links:
            self._holds[link.node] = self._holds.get(link.node, 0) + 1

    def release(self, node: str) -> None:
        """The node is over: results that nothing else waits for are let go.

        From the first expansion on, those of the prompt's own nodes stay: loops come back to them in every round.
        """
        made = self.dynamic.made
        for link in self._needs.pop(node, ()):
            self._holds[link.node] -= 1
            if not self._holds[link.node] and (not made or link.node in made):
                self.results.pop(link.node, None)
        if not self._holds.get(node) and (not made or node in made):
            self.results.pop(node, None)

    def held(self) -> set[bytes]:
        """The signatures of results that this run holds."""
        return {self.signer.signatures[node] for node in self.results}

    def needed(self) -> dict[bytes, Entry]:
        """Results that nodes which are not over are given, or have already; by signature.

        From the first expansion on all of the prompt's own nodes count, as in `release`.
        """
        unfinished = self.schedule.unfinished()
        links = (value for node in unfinished for value in self.prompt[node].inputs.values() if type(value) is Link)
        wanted = {*unfinished, *(link.node for link in links)}
        for pending in self.pending.values():
            if pending.expanded:
                behind = (read_link(value) for given in pending.results for value in given.values)
                wanted |= {link.node for link in behind if link is not None}
        if made := self.dynamic.made:
            wanted |= {node for node in self.results if node not in made}
        signatures = self.signer.signatures
        found = {signatures[node]: self.find(node) for node in wanted if node in signatures}
        return {signature: entry for signature, entry in found.items() if entry is not None}

    def relieve(self, needed: int) -> int:
        """Let go of what no node of this run needs, of up to `needed` bytes of RAM; how many came free.

        Should a node need it all the same, it is made again.
        """
        held = self.needed()
        for node in [node for node in self.results if self.signer.signatures[node] not in held]:
            del self.results[node]
        return self.cache.relieve(needed, held)

    # What a node is given

    def strong(self, node: str, spec: NodeCall) -> list[Link]:
        """The links that a node waits for: those of declared inputs that are neither lazy nor wanted as links."""
        ports, free = self.ports(spec.kind)
        links = [
            value for name, value in spec.inputs.items() if type(value) is Link and name in ports and name not in free
        ]
        if not self.cache.steady:
            lazy = [value for name, value in spec.inputs.items() if type(value) is Link and name in free]
            self.hold(node, links + lazy)
        return links

    def ports(self, kind: str) -> tuple[Container[str], frozenset[str]]:
        """Names of a kind's inputs, and of those that do not block."""
        found = self._ports.get(kind)
        if found is None:
            schema = self.schemas.get(kind)
            inputs = () if schema is None else schema.inputs
            has_lazy = schema is not None and "lazy" in schema.companions
            free = frozenset(port.name for port in inputs if port.raw_link or (has_lazy and port.lazy))
            found = self._ports[kind] = {} if schema is None else schema.ports(), free
        return found

    def eager(self, spec: NodeCall) -> bool:
        """Whether a node is a coroutine, which is begun early (rule X3)."""
        schema = self.schemas.get(spec.kind)
        return schema is not None and schema.asynchronous

    def gather(self, node: str, spec: NodeCall, prepared: Prepared, inputs: dict[str, list[Any]]) -> None:
        """Every input as a list (rule M1): a link's list, a constant alone, what is filled in alone."""
        ports = prepared.ports
        for name, value in spec.inputs.items():
            if name not in ports:
                continue
            if type(value) is Link:
                if ports[name].raw_link:
                    inputs[name] = [list(value)]
                elif name in prepared.lazy and self.find(value.node) is None:
                    inputs[name] = [None]
                else:
                    inputs[name] = self.value_of(value)
            else:
                inputs[name] = [list(value) if type(value) is Listed else value]
        for name, marker in prepared.hidden:
            inputs[name] = [self.hidden(marker, node)]

    def value_of(self, link: Link) -> list[Any]:
        """The list of values that a link brings."""
        entry = self.find(link.node)
        if entry is None:
            raise ResultGone(link.node)
        if not self.cache.steady:
            self.results[link.node] = entry
        self.blockers = self.blockers or entry.blocked
        if not 0 <= link.slot < len(entry.outputs):
            given, kind = len(entry.outputs), self.prompt[link.node].kind
            raise NodeInputError(f"Node {link.node} ({kind}) gave {given} outputs, so there is none at {link.slot}.")
        return entry.outputs[link.slot]

    def hidden(self, marker: str, node: str) -> Any:
        """What the engine fills in for a hidden input (rule H1)."""
        match marker:
            case "PROMPT":
                return self.stored
            case "EXTRA_PNGINFO":
                return self.job.extra_data.get("extra_pnginfo")
            case "UNIQUE_ID":
                return node
            case "DYNPROMPT":
                return self.dynamic
            case _:
                return self.job.sensitive.get(marker.lower())

    def make_run(self, node: str) -> EngineRun:
        """The node's door to the engine."""
        return EngineRun(self._shared, node)

    def share(self) -> dict[str, Any]:
        """What the doors of all nodes have in common."""
        extra = self.job.extra_data.get("extra_pnginfo")
        return {
            "prompt_id": self.job.prompt_id,
            "settings": self.executor.settings,
            "store": self.store,
            "_memory_of": self.executor.memory_manager,
            "sink": self.progress,
            "prompt": self.stored,
            "extra_pnginfo": extra if isinstance(extra, dict) else None,
        }

    def instance(self, node: str, prepared: Prepared) -> Any:
        """The instance of a node whose kind is a class of a pack."""
        root = self.dynamic.get_real_node_id(node)
        return self.executor.instances.get(node, root, self.prompt, prepared)

    def prepared(self, kind: str) -> Prepared:
        """A kind ready to be called, as it is in this run."""
        found = self._prepared.get(kind)
        if found is None:
            found = self._prepared[kind] = self.executor.functions.get(kind, self.schemas)
        return found

    # Companions

    async def take_fingerprints(self, calls: Mapping[str, NodeCall]) -> None:
        """Ask every node that can tell whether it has changed, once (rules I1 to I4)."""
        asking: dict[str, bool] = {}
        for node, call in calls.items():
            asks = asking.get(call.kind)
            if asks is None:
                schema = self.schemas.get(call.kind)
                asks = asking[call.kind] = schema is not None and "changes_when" in schema.companions
            if asks and "is_changed" not in call.extra:
                self.progress.check()
                self._fingerprints[node] = await self.ask_fingerprint(node, call)
        known = {node: value for node, value in self._fingerprints.items() if node in self.stored and is_plain(value)}
        if known and calls is self.prompt:
            stored = self.stored
            self.stored = {**stored, **{node: {**stored[node], "is_changed": value} for node, value in known.items()}}
            self._shared = self.share()

    async def ask_fingerprint(self, node: str, spec: NodeCall) -> Any:
        """What the kind's `changes_when` says; a failure is logged and never equal."""
        try:
            prepared = self.prepared(spec.kind)
            schema = prepared.schema
            values: dict[str, Any] = {name: {} if marker == "PROMPT" else None for name, marker in prepared.hidden}
            for name, value in spec.inputs.items():
                values[name] = None if type(value) is Link else list(value) if type(value) is Listed else value
            given = {name: [value] for name, value in values.items()} if schema.input_is_list else values
            answer = await self.ask(node, prepared, "changes_when", given)
            return [None if isinstance(answer, Blocker) else answer]  # as rule B5 has it
        except Interrupted:
            raise
        except Exception:
            log.warning("Node %s (%s) could not say whether it has changed; it runs.", node, spec.kind, exc_info=True)
            return [float("nan")]

    def fingerprint(self, node: str, spec: NodeCall, schema: Schema) -> Any:  # noqa: ARG002 - the form of a Fingerprint
        """What the node said when it was asked."""
        return self._fingerprints.get(node, [float("nan")])

    async def ask(self, node: str, prepared: Prepared, name: CompanionName, values: Mapping[str, Any]) -> Any:
        """Call a companion of a node, and wait for it if it is a coroutine (rule A5)."""
        instance = None if prepared.source is None else self.instance(node, prepared)
        companion = prepared.companion(name, instance)
        if companion is None:
            raise LimnerError(f"{prepared.schema.kind} has no companion {name}, though its schema says so.")
        answer = call_companion(companion, values, lambda: self.make_run(node), prepared.source is not None)
        if not inspect.isawaitable(answer):
            return answer
        if not self._on_loop:
            self._on_loop = True
            await take_loop()
        return await answer

    async def wait_for_lazy(self, node: str, spec: NodeCall, prepared: Prepared) -> bool:
        """Ask which lazy inputs are needed (rules L1 to L5). Returns True when the node must wait for some."""
        inputs: dict[str, list[Any]] = {}
        values: dict[str, Any] = {}
        whole = prepared.schema.input_is_list
        self.gather(node, spec, prepared, inputs)
        for name, found in inputs.items():
            values[name] = tuple(found) if whole else found[0]
        for name in prepared.lazy:
            values.setdefault(name, (None,) if whole else None)
        asked = await self.ask(node, prepared, "lazy", values)
        needed: list[str] = []
        for name in (one for one in asked or () if one is not None):
            value = spec.inputs.get(name)
            if name in inputs and type(value) is Link and self.find(value.node) is not None:
                continue
            if type(value) is not Link:
                raise NodeInputError(f"{spec.kind} asked for its input {name}, which is not linked.")
            needed.append(value.node)
        return self.schedule.require(node, needed)

    # How it ends

    def tell_blocked(self, node: str, kind: str, text: str) -> None:
        """Tell the client why a branch does not run. The run goes on, and its history says nothing (rule B2)."""
        if self.client is not None:
            said = f"Execution Blocked: {text}"
            real = self.dynamic.get_real_node_id(node)
            self.hub.push(
                ExecutionError(
                    self.job.prompt_id,
                    self.client,
                    node_id=real,
                    node_type=kind if real == node else self.kind(real),
                    exception_message=said,
                    exception_type="ExecutionBlocked",
                )
            )

    def interruption(self) -> ExecutionInterrupted:
        """The event of an interrupted run. It reaches everyone when the prompt has no client (rule R4)."""
        real = self.dynamic.get_real_node_id(self.at)
        return ExecutionInterrupted(self.job.prompt_id, self.client, real, self.kind(real), tuple(self.executed), now())

    def failure(self, failed: NodeFailed) -> ExecutionError:
        """The event of a failed run. It names the prompt's own node, also for one that an expansion made (rule R6)."""
        error = failed.cause
        real = self.dynamic.get_real_node_id(failed.node)
        log.error("Node %s (%s) failed: %s", failed.node, failed.kind, text_of(error), exc_info=error)
        if failed.node:
            self.progress.leave(failed.node, "error")
        report = ExecutionError(
            self.job.prompt_id,
            self.client,
            node_id=real,
            node_type=self.kind(real),
            executed=tuple(self.executed),
            exception_message=message(error, self.executor.loaded() if is_out_of_memory(error) else ""),
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


def failed(task: asyncio.Future[Any]) -> bool:
    """Whether a task has ended with an exception, or was cancelled."""
    return task.done() and (task.cancelled() or task.exception() is not None)


def is_plain(value: Any) -> bool:
    """Whether a fingerprint can stand in the prompt's JSON, and mean the same when it is sent back."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
