"""A device of numbers, networks of numbers, and the real memory manager between them.

Nothing is computed: bringing a unit counts the bytes that cross to the device, and every byte that is taken is held
against what the device has and what other programs use, at every moment. What a request is allowed to do is checked as
it is done (`Audit`), so that a replay that ends without an error is one that broke no rule.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import nn

from limner.errors import OutOfMemory
from limner.memory import MemoryManager
from limner.memory.backends.protocol import Capabilities, Event, Pinning
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
        self._passes: dict[frozenset[str] | None, tuple[int, int]] = {}
        self.units: Sequence[Unit] = self._units()
        if target.streamer not in self._device.backend.streamers:
            self._device.backend.streamers.append(target.streamer)

    def _units(self) -> Sequence[Unit]:
        """A unit that is patched each time it is used takes larger buffers."""
        plain = self.source.units
        if not self.patches.digest:
            return plain
        return [
            replace(one, streamed=one.streamed + one.resident) if self.patches.tag(index) else one
            for index, one in enumerate(plain)
        ]

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
        """Make anew what differs."""
        self._passes.clear()
        before, self.patches = self.patches, patches
        self.units = self._units()
        changed = [index for index in range(len(self.units)) if before.tag(index) != patches.tag(index)]
        for index in changed:
            if index in self._applied:
                self._make(index)
                self._device.moved.repatched += self.units[index].moved
        return len(changed)

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
        unit, tag = self.units[index], self.patches.tag(index)
        if tag:
            self._device.backend.pass_through(self.source.patching(index))
        elif unit.moved != unit.resident:
            self._device.backend.pass_through(unit.moved)
        self._applied[index] = tag

    def run(self, children: frozenset[str] | None = None) -> None:
        """Use the weights once: all, or those of some of its modules. Raises BrokenRule where their patches are wrong."""
        if children not in self._passes:
            used = [index for index, name in enumerate(self.source.roots) if children is None or name in children]
            wrong = [i for i in used if i in self._applied and self._applied[i] != self.patches.tag(i)]
            if wrong:
                raise BrokenRule(f"Units {wrong[:4]} of {self.source.name} have other patches than they must.")
            if any(self.units[index].fixed and index not in self._applied for index in used):
                raise BrokenRule(f"{self.source.name} is used without its fixed units.")
            away = [self.units[index] for index in used if index not in self._applied]
            largest = max((unit.streamed for unit in away), default=0)
            self._passes[children] = largest, sum(unit.moved for unit in away)
        largest, moved = self._passes[children]
        streamer, backend = self._target.streamer, self._device.backend
        if streamer.buffers > 1:
            before = streamer.nbytes
            streamer.reserve(largest)
            backend.highest = max(backend.highest, backend.used(DEVICE))
            if backend.free(DEVICE) < 0:
                raise BrokenRule(f"Buffers grow by {streamer.nbytes - before} bytes that are not there.")
        else:
            backend.pass_through(largest)
        self._device.moved.streamed += moved


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

    def patching(self, index: int) -> int:
        """Bytes that patching one unit takes in passing."""
        return self.making * self.units[index].resident

    def nbytes(self, dtype: torch.dtype | None) -> int:
        """Bytes of all units."""
        return sum(unit.resident for unit in self.units)

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
    """What a replay came to. refused: requests that could not fit. log: (kind, bytes, passes) for a timeline."""

    requests: int = 0
    refused: int = 0
    reloaded: int = 0
    log: list[tuple[str, int]] = field(default_factory=list)


@dataclass(eq=False)
class Use:
    """A request that is being served, or one that could not be."""

    request: Request
    placement: FakePlacement | None
    stack: ExitStack


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
        use = Use(request, None, ExitStack())
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
        self.backend.let_others()
        return use

    def run(self, use: Use, children: frozenset[str] | None = None) -> None:
        """One pass of its computation, with as much working memory as it wants, or as little as it can do with."""
        if use.placement is None:
            return
        request, before = use.request, self.moved.streamed
        free = self.backend.free(DEVICE)
        taken = min(request.working, max(request.needed, free))
        try:
            self.backend.take(taken)
        except torch.OutOfMemoryError as error:
            if self.could_fit(request):
                raise BrokenRule(
                    f"{request.source.name} finds {free} of {request.needed} bytes to compute with."
                ) from error
            self.report.refused += 1
            self._end(use, error)
            return
        try:
            use.placement.run(children)
        finally:
            self.backend.give(taken)
        self._log("pass", self.moved.streamed - before)
        self.backend.let_others()

    def leave(self, use: Use) -> None:
        """End it."""
        self.uses.remove(use)
        use.stack.close()
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
        settings, units = self.manager.settings, request.source.units
        reserved = 0.4 if settings.reserve_vram is None else settings.reserve_vram
        free = self.backend.size - self.backend.others - int(reserved * 1024**3)
        cap = self.manager.cap(DEVICE)
        free = free if cap is None else min(free, cap)
        several = 2 if self.backend.streams else 1
        held = [use.request for use in self.uses if use.placement is not None]
        largest = max((_largest(one.source) for one in [*held, request] if not _is_whole(one, self.uses)), default=0)
        fixed = sum(unit.resident for unit in units if unit.fixed)
        kept = sum(_occupied(use) for use in self.uses)
        making = max((_making(request.source, index) for index in range(len(units))), default=0)
        working = max(request.needed, making, *(one.needed for one in held)) if held else max(request.needed, making)
        return fixed + kept + several * _aligned(largest) + working <= free

    def _check_drops(self, request: Request, placement: FakePlacement, audit: Audit, free: int) -> None:
        """Nothing goes that could stay: what is free beside the working memory is less than one unit of what went."""
        if not audit.dropped or not self.strict:
            return
        now = self.manager.room(DEVICE).free
        making = max((_making(request.source, i) for i in range(len(placement.units))), default=0)
        left = now - max(request.working, request.needed)
        allowed = max(audit.dropped) + making + 2 * _aligned(_largest(request.source))
        if left > allowed:
            raise BrokenRule(
                f"For {request.source.name} {sum(audit.dropped)} bytes are dropped of which {left} stay free; "
                f"{free} had been free."
            )

    def _log(self, kind: str, nbytes: int) -> None:
        self.report.log.append((kind, nbytes))

    def _end(self, use: Use, error: BaseException) -> None:
        """Let the manager see that a computation ran out of memory: it tells it in words."""
        try:
            use.stack.__exit__(type(error), error, error.__traceback__)
        except OutOfMemory:
            use.placement = None
            return
        raise BrokenRule("Running out of memory goes unnoticed.")


def _largest(source: FakeSource) -> int:
    """Bytes of the largest buffer that streaming a network takes, patched."""
    return max(
        (unit.streamed + (unit.resident if source.patches.tag(i) else 0) for i, unit in enumerate(source.units)
         if not unit.fixed),
        default=0,
    )  # fmt: skip


def _making(source: FakeSource, index: int) -> int:
    """Bytes that making one unit takes in passing."""
    unit = source.units[index]
    if source.patches.tag(index):
        return source.patching(index)
    return unit.moved if unit.moved != unit.resident else 0


def _is_whole(request: Request, uses: Sequence[Use]) -> bool:
    """Whether a network in use is on the device as a whole."""
    return any(
        use.placement is not None and use.request is request and len(use.placement.resident) == len(use.placement.units)
        for use in uses
    )


def _occupied(use: Use) -> int:
    """Bytes of a network in use: its weights stay where they are until it is left."""
    placement = use.placement
    return 0 if placement is None else sum(placement.units[i].resident for i in placement.resident)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // 256) * 256


def elapsed(log: Sequence[tuple[str, int]], link: float, compute: float) -> float:
    """Seconds that a replay would take. link: bytes a second. compute: seconds of a pass, beside which weights come."""
    return sum(nbytes / link if kind == "load" else max(compute, nbytes / link) for kind, nbytes in log)
