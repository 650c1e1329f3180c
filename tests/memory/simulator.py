"""A device of numbers, networks of numbers, and the real memory manager between them.

Nothing is computed: bringing a unit counts the bytes that cross to the device, and every byte that is taken is held
against what the device has and what other programs use, at every moment. What a request is allowed to do is checked as
it is done (`Audit`), so that a replay that ends without an error is one that broke no rule.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import nn

from limner.errors import OutOfMemory
from limner.memory import MemoryManager
from limner.memory.backends.protocol import Capabilities, Event, Pinning
from limner.memory.pinned import PinnedMemory
from limner.memory.settings import MemorySettings
from limner.memory.streaming import Streamer
from limner.memory.units import Target, Unit

DEVICE = torch.device("meta")
"""Buffers of this device have a size and no memory."""
PATCHING = 6
"""Bytes that patching a weight takes in passing, for each of its own: three float32 copies of two bytes."""


class BrokenRule(AssertionError):
    """The manager did what it must not."""


# -- a device ---------------------------------------------------------------------------------------------------------


class Point:
    """An event of a stream that does nothing."""


class Copies:
    """A stream that does nothing."""

    def entered(self) -> AbstractContextManager[object]:
        """Nothing is enqueued."""
        return nullcontext()

    def record(self) -> Event:
        """A point."""
        return Point()

    def wait(self, event: Event) -> None:
        """Nothing to wait for."""


@dataclass(eq=False)
class FakeBackend:
    """A device of `size` bytes, of which other programs use some, at the end of a link of so many bytes a second.

    Other programs get what is free when they want it, and the rest as soon as that is. streams: whether copies run
    beside the computation.
    """

    size: int
    link: float = 12e9
    streams: bool = True
    kind: str = DEVICE.type
    wanted: int = 0
    others: int = 0
    taken: int = 0
    highest: int = 0
    ever: int = 0
    refused: int = 0
    streamers: list[Streamer] = field(default_factory=list)

    def count(self) -> int:
        """One."""
        return 1

    def name(self, device: torch.device) -> str:
        """What it is."""
        return "a device of numbers"

    def capabilities(self, device: torch.device) -> Capabilities:
        """As a recent accelerator."""
        return Capabilities(self.kind, bf16=True, fp16=True)

    def is_unified(self, device: torch.device) -> bool:
        """It has memory of its own."""
        return False

    def total(self, device: torch.device) -> int:
        """Its size."""
        return self.size

    def free(self, device: torch.device) -> int:
        """What neither this process nor others use."""
        return self.size - self.others - self.used(device)

    def used(self, device: torch.device) -> int:
        """Weights, working memory and buffers."""
        return self.taken + sum(one.nbytes for one in self.streamers)

    def held(self, device: torch.device) -> int:
        """Its allocator keeps nothing."""
        return 0

    def trim(self, device: torch.device) -> None:
        """Nothing to give back."""

    def cap(self, device: torch.device, nbytes: int) -> None:
        """Its allocator knows no cap."""

    def start_peak(self, device: torch.device) -> None:
        """Measure from here on."""
        self.highest = self.used(device)

    def peak(self, device: torch.device) -> int:
        """The highest since."""
        return self.highest

    def synchronize(self, device: torch.device) -> None:
        """Nothing to wait for."""

    def stream(self, device: torch.device) -> Copies | None:
        """A stream for copies."""
        return Copies() if self.streams else None

    def current(self, device: torch.device) -> Copies:
        """The stream of computations."""
        return Copies()

    def pinning(self) -> Pinning | None:
        """None: what is locked is not counted here."""
        return None

    # -- what the simulated network and programs do ---------------------------------------------------------------

    def take(self, nbytes: int) -> None:
        """Allocate. Raises torch's error where there is not so much."""
        if nbytes > self.free(DEVICE):
            self.refused += 1
            raise torch.OutOfMemoryError(f"{nbytes} bytes wanted, {self.free(DEVICE)} free")
        self.taken += nbytes
        self.highest = max(self.highest, self.used(DEVICE))
        self.ever = max(self.ever, self.highest)

    def watch(self, streamer: Streamer) -> None:
        """Count a streamer's buffers, and let it have no more than there is."""
        if streamer in self.streamers:
            return
        reserve = streamer.reserve

        def reserved(nbytes: int) -> None:
            growth = streamer.count * nbytes - streamer.nbytes if streamer.buffers > 1 else 0
            if growth > 0:
                self.pass_through(growth)
            reserve(nbytes)

        streamer.reserve = reserved  # type: ignore[method-assign]
        self.streamers.append(streamer)

    def give(self, nbytes: int) -> None:
        """Free."""
        self.taken -= nbytes

    def pass_through(self, nbytes: int) -> None:
        """Allocate for a moment."""
        self.take(nbytes)
        self.give(nbytes)

    def let_others(self, wanted: int | None = None) -> None:
        """Other programs want so many bytes from now on, and take what they can get of it."""
        self.wanted = self.wanted if wanted is None else wanted
        room = self.size - self.used(DEVICE)
        if room < self.others:
            raise BrokenRule(f"{self.others - room} bytes are used that other programs have.")
        self.others = min(self.wanted, room)


# -- a network --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FakePatches:
    """What changes which units: a word for each, "" for none."""

    digest: str = ""
    tags: tuple[str, ...] = ()

    def tag(self, index: int) -> str:
        """Of one unit."""
        return self.tags[index] if self.tags else ""


def patched(units: tuple[Unit, ...], patches: FakePatches, making: int) -> Sequence[Unit]:
    """Units as they are with patches: those that are patched each time they are used take larger buffers.

    making: bytes that patching a unit takes in passing, for each of its own.
    """
    return [
        replace(one, streamed=one.streamed + one.resident, making=one.moved + making * one.resident) if tag else one
        for one, tag in itertools.zip_longest(units, patches.tags, fillvalue="")
        if isinstance(one, Unit)
    ]


@dataclass
class Moved:
    """Bytes that crossed to the device: to stay, patched anew, and in passing."""

    brought: int = 0
    repatched: int = 0
    streamed: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.brought + self.repatched + self.streamed


@dataclass
class Audit:
    """What one request did. Sizes are of whole units. room: bytes of others that it let go of."""

    network: str
    brought: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    touched: set[tuple[int, int]] = field(default_factory=set)

    def bring(self, placement: FakePlacement, index: int) -> None:
        """Note it. Raises BrokenRule where the unit was dropped by the same request, or is another network's."""
        if placement.source.name != self.network:
            raise BrokenRule(f"{placement.source.name} is brought for {self.network}.")
        if (id(placement), index) in self.touched:
            raise BrokenRule(f"Unit {index} of {self.network} is dropped and brought again by one request.")
        self.brought.append(placement.units[index].resident)

    def drop(self, placement: FakePlacement, index: int) -> None:
        """Note it."""
        self.touched.add((id(placement), index))
        self.dropped.append(placement.units[index].resident)


@dataclass(eq=False)
class Device:
    """A backend, what has crossed to it, and the request that is served now."""

    backend: FakeBackend
    moved: Moved = field(default_factory=Moved)
    audit: Audit | None = None
    placements: list[FakePlacement] = field(default_factory=list)
    units: dict[tuple[str, str], Sequence[Unit]] = field(default_factory=dict)


class FakePlacement:
    """A network of which some units are on the device."""

    def __init__(self, source: FakeSource, target: Target) -> None:
        self.source = source
        self.network = nn.Module()
        self.patches = source.patches
        self.pinned = 0
        self._device = source.device
        self._target = target
        self._applied: dict[int, str] = {}
        self._stale: set[int] = set()
        self._passes: dict[tuple[frozenset[str] | None, str], tuple[int, int, int]] = {}
        self.units: Sequence[Unit] = source.patched(source.patches)
        self._device.backend.watch(target.streamer)

    @property
    def resident(self) -> Collection[int]:
        """The units that are on the device."""
        return self._applied.keys()

    @property
    def patched(self) -> int:
        """How many units that are not resident have patches."""
        return sum(1 for i in range(len(self.units)) if i not in self._applied and self.patches.tag(i))

    def bring(self, indexes: Collection[int]) -> None:
        """Take memory for units; each is patched as it comes."""
        self._passes.clear()
        for index in indexes:
            if index in self._applied:
                raise BrokenRule(f"Unit {index} of {self.source.name} is resident and brought again.")
            if self._device.audit is not None:
                self._device.audit.bring(self, index)
            self._device.backend.take(self.units[index].resident)
            self._make(index)
            if index in self._stale:
                self._device.moved.repatched += self.units[index].moved
                self._stale.remove(index)
            else:
                self._device.moved.brought += self.units[index].moved

    def drop(self, indexes: Collection[int]) -> None:
        """Give their memory back."""
        self._passes.clear()
        for index in indexes:
            if self.units[index].fixed:
                raise BrokenRule(f"Unit {index} of {self.source.name} is fixed and dropped.")
            if self._device.audit is not None:
                self._device.audit.drop(self, index)
            del self._applied[index]
            self._device.backend.give(self.units[index].resident)

    def repatch(self, patches: FakePatches) -> int:
        """Take off what differs, to be made anew."""
        self._passes.clear()
        before, self.patches = self.patches, patches
        self.units = self.source.patched(patches)
        changed = [index for index in range(len(self.units)) if before.tag(index) != patches.tag(index)]
        for index in changed:
            if index in self._applied and self.units[index].fixed:
                self._make(index)
                self._device.moved.repatched += self.units[index].moved
            elif index in self._applied:
                del self._applied[index]
                self._device.backend.give(self.units[index].resident)
                self._stale.add(index)
        return len(changed)

    def pin(self, memory: PinnedMemory) -> None:
        """Nothing: what is locked is not counted here."""

    def close(self) -> None:
        """Give everything back."""
        for index in self._applied:
            if self._device.audit is not None:
                self._device.audit.drop(self, index)
            self._device.backend.give(self.units[index].resident)
        self._applied.clear()
        self._passes.clear()
        self._device.placements.remove(self)

    def _make(self, index: int) -> None:
        self._device.backend.pass_through(self.units[index].making)
        self._applied[index] = self.patches.tag(index)

    def in_passing(self, children: frozenset[str] | None = None) -> int:
        """Bytes that using the weights takes beside the buffers that stay."""
        largest, making, _ = self._away(children)
        return making + (0 if self._target.streamer.buffers > 1 else largest)

    def _away(self, children: frozenset[str] | None) -> tuple[int, int, int]:
        """Of units that are not resident: the largest buffer, what filling it takes, and bytes that cross in a pass."""
        known = children, self.patches.digest
        if known not in self._passes:
            used = [index for index, name in enumerate(self.source.roots) if children is None or name in children]
            wrong = [i for i in used if i in self._applied and self._applied[i] != self.patches.tag(i)]
            if wrong:
                raise BrokenRule(f"Units {wrong[:4]} of {self.source.name} have other patches than they must.")
            if any(self.units[index].fixed and index not in self._applied for index in used):
                raise BrokenRule(f"{self.source.name} is used without its fixed units.")
            away = [self.units[index] for index in used if index not in self._applied]
            largest = max((unit.streamed for unit in away), default=0)
            making = max((unit.making for unit in away), default=0)
            self._passes[known] = largest, making, sum(unit.moved for unit in away)
        return self._passes[known]

    def run(self, children: frozenset[str] | None = None) -> None:
        """Use the weights once: all, or those of some of its modules. Raises BrokenRule where their patches are wrong."""
        largest, making, moved = self._away(children)
        self._device.backend.pass_through(making)
        streamer, backend = self._target.streamer, self._device.backend
        if streamer.buffers > 1:
            streamer.reserve(largest)
        else:
            backend.pass_through(largest)
        self._device.moved.streamed += moved


@dataclass(frozen=True)
class Costs:
    """Bytes of a network: whole, of its fixed units, for making one unit, and for streaming by one or two buffers."""

    whole: int
    fixed: int
    making: int
    streaming: tuple[int, ...]


@dataclass(eq=False)
class FakeSource:
    """A network that can be loaded: `limner.weights.NetworkSource` in numbers.

    making: bytes that patching a unit takes in passing, for each of its own.
    """

    name: str
    units: tuple[Unit, ...]
    device: Device
    patches: FakePatches = FakePatches()
    making: int = PATCHING

    @property
    def identity(self) -> str:
        """Its name."""
        return self.name

    @property
    def patches_digest(self) -> str:
        """Of its patches."""
        return self.patches.digest

    @cached_property
    def roots(self) -> tuple[str, ...]:
        """The first part of each unit's name."""
        return tuple(unit.name.partition(".")[0] for unit in self.units)

    def nbytes(self, dtype: torch.dtype | None) -> int:
        """Bytes of all units."""
        return self.costs.whole

    def patched(self, patches: FakePatches) -> Sequence[Unit]:
        """Its units as they are with patches."""
        known = self.name, patches.digest
        if known not in self.device.units:
            self.device.units[known] = patched(self.units, patches, self.making)
        return self.device.units[known]

    @cached_property
    def costs(self) -> Costs:
        """What it takes at most."""
        units = self.patched(self.patches)
        streamed = [unit for unit in units if not unit.fixed]
        return Costs(
            sum(unit.resident for unit in units),
            sum(unit.resident for unit in units if unit.fixed),
            max((unit.making for unit in units), default=0),
            tuple(
                max((buffers * _aligned(unit.streamed) + unit.making for unit in streamed), default=0)
                for buffers in (1, 2)
            ),
        )

    def place(self, target: Target) -> FakePlacement:
        """The network, nowhere yet."""
        placement = FakePlacement(self, target)
        self.device.placements.append(placement)
        return placement


# -- a program that uses networks -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """A network and what is said of its use: see `MemoryManager.loaded`."""

    source: FakeSource
    working: int = 0
    least: int | None = None
    passes: int | None = None

    @property
    def needed(self) -> int:
        """Bytes of working memory that it cannot do without."""
        return self.working if self.least is None else self.least


@dataclass
class Report:
    """What a replay came to. refused: requests that could not fit. highest: bytes that were ever in use.

    log: "load" or "pass", and the bytes that crossed for it, for a timeline.
    """

    requests: int = 0
    refused: int = 0
    highest: int = 0
    log: list[tuple[str, int]] = field(default_factory=list)


@dataclass(eq=False)
class Use:
    """A request that is being served, or one that could not be.

    others: bytes that other programs had at its start. alone: no other network was used meanwhile.
    passing: bytes that weights took in passing, at most.
    """

    request: Request
    placement: FakePlacement | None
    stack: ExitStack
    others: int = 0
    alone: bool = True
    passing: int = 0


class Simulation:
    """The real manager on a device of numbers; used as the engine uses it, and watched."""

    def __init__(self, backend: FakeBackend, settings: MemorySettings, *, strict: bool = True) -> None:
        """strict: hold that no more is dropped than is needed, which settings that keep little by design do not."""
        self.device = Device(backend)
        self.manager = MemoryManager(settings, DEVICE, backend=backend)
        self.report = Report()
        self.strict = strict
        self.uses: list[Use] = []

    @property
    def backend(self) -> FakeBackend:
        """The device."""
        return self.device.backend

    @property
    def moved(self) -> Moved:
        """What crossed to it."""
        return self.device.moved

    def source(
        self, name: str, units: Sequence[Unit], patches: FakePatches | None = None, making: int = PATCHING
    ) -> FakeSource:
        """A network for this device."""
        return FakeSource(name, tuple(units), self.device, patches or FakePatches(), making)

    def enter(self, request: Request) -> Use:
        """Begin to use a network. It is refused where even streaming it would not fit; anything else is an error."""
        self.backend.let_others()
        self.report.requests += 1
        could = self.could_fit(request)
        use = Use(request, None, ExitStack(), alone=not self.uses)
        for other in self.uses:
            other.alone = False
        self.uses.append(use)
        free, audit = self.manager.room(DEVICE).free, Audit(request.source.name)
        refused, brought = self.backend.refused, self.moved.total
        self.device.audit = audit
        try:
            network = use.stack.enter_context(
                self.manager.loaded(
                    request.source, None, DEVICE, request.working, least=request.least, passes=request.passes
                )
            )
        except OutOfMemory as error:
            if could:
                raise BrokenRule(f"{request.source.name} could be streamed, and is refused: {error}") from error
            self.report.refused += 1
            return use
        finally:
            self.device.audit = None
        use.placement = next(one for one in self.device.placements if one.network is network)
        if could and self.backend.refused > refused:
            raise BrokenRule(f"{request.source.name} could fit, and ran out of memory on its way.")
        self._check_drops(request, use.placement, audit, free)
        self._log("load", self.moved.total - brought)
        use.others = self.backend.others
        self.backend.let_others()
        return use

    def run(self, use: Use, children: frozenset[str] | None = None) -> None:
        """One pass of its computation, with as much working memory as it wants, or as little as it can do with."""
        if use.placement is None:
            return
        request, before = use.request, self.moved.streamed
        free = self.manager.free_memory(DEVICE) - use.placement.in_passing(children)
        use.passing = max(use.passing, use.placement.in_passing(children))
        taken = min(request.working, max(request.needed, free))
        held = self.backend.taken
        try:
            self.backend.take(taken)
            use.placement.run(children)
        except torch.OutOfMemoryError as error:
            self.backend.give(self.backend.taken - held)
            if self.could_fit(request) and self.backend.others <= use.others:
                raise BrokenRule(
                    f"{request.source.name} finds {free} of {request.needed} bytes to compute with."
                ) from error
            self.report.refused += 1
            self._end(use, error)
            return
        self.backend.give(taken)
        self._log("pass", self.moved.streamed - before)
        self.backend.let_others()

    def leave(self, use: Use) -> None:
        """End it. What the manager remembers that it took is no more than it asked for and what its weights took."""
        self.uses.remove(use)
        use.stack.close()
        if use.alone and use.placement is not None and use.request.working:
            run = self.manager.last_runs()[-1]
            if run.estimated != use.request.working or run.measured > run.estimated + use.passing:
                raise BrokenRule(f"{use.request.source.name} wanted {use.request.working} bytes, and took: {run}")
        self.backend.let_others()

    @contextmanager
    def using(self, request: Request, passes: int = 1) -> Iterator[Use]:
        """A request, so many passes, and inside the block whatever else is done meanwhile."""
        use = self.enter(request)
        try:
            for _ in range(passes):
                self.run(use)
            yield use
        finally:
            self.leave(use)

    def unload(self) -> None:
        """Someone asks for memory."""
        self.manager.unload_all()
        idle = [one for one in self.manager.held() if not one.in_use]
        if idle:
            raise BrokenRule(f"{idle[0].name} is still loaded.")

    def could_fit(self, request: Request) -> bool:
        """Whether a request can be served with every weight that can be streamed off the device."""
        settings = self.manager.settings
        reserved = 0.4 if settings.reserve_vram is None else settings.reserve_vram
        free = self.backend.size - self.backend.others - int(reserved * 1024**3)
        cap = self.manager.cap(DEVICE)
        free = free if cap is None else min(free, cap)
        several = 2 if self.backend.streams else 1
        held = [use.request for use in self.uses if use.placement is not None] + [request]
        fixed = sum({one.source.name: one.source.costs.fixed for one in held}.values())
        working = max(request.source.costs.making, *(one.needed for one in held))
        return fixed + max(one.source.costs.streaming[several - 1] for one in held) + working <= free

    def _check_drops(self, request: Request, placement: FakePlacement, audit: Audit, free: int) -> None:
        """Nothing goes that could stay: what is free beside the working memory is less than one unit of what went."""
        if not audit.dropped or not self.strict:
            return
        now = self.manager.room(DEVICE).free
        left = now - max(request.needed, *(use.request.working for use in self.uses if use.placement is not None))
        allowed = max(audit.dropped) + request.source.costs.making + request.source.costs.streaming[1]
        if left > allowed:
            raise BrokenRule(
                f"For {request.source.name} {sum(audit.dropped)} bytes are dropped of which {left} stay free; "
                f"{free} had been free."
            )

    def _log(self, kind: str, nbytes: int) -> None:
        self.report.log.append((kind, nbytes))
        self.report.highest = max(self.report.highest, self.backend.ever)

    def _end(self, use: Use, error: BaseException) -> None:
        """Let the manager see that a computation ran out of memory: it tells it in words."""
        try:
            use.stack.__exit__(type(error), error, error.__traceback__)
        except OutOfMemory:
            use.placement = None
            return
        raise BrokenRule("Running out of memory goes unnoticed.")


def _aligned(nbytes: int) -> int:
    return -(-nbytes // 256) * 256


def elapsed(log: Sequence[tuple[str, int]], link: float, compute: float) -> float:
    """Seconds that a replay would take. link: bytes a second. compute: seconds of a pass, beside which weights come."""
    return sum(nbytes / link if kind == "load" else max(compute, nbytes / link) for kind, nbytes in log)
