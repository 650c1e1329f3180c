"""An accelerator that is none: it computes late, out of order between streams, and fails when it is told to.

Its tensors say that they are on a device of their own, and hold a tensor in ordinary memory. An operation on them is
checked and its result allocated at once, as on a real device, but computed later: operations wait in the queue of their
stream, and a seeded generator chooses which stream is next among those whose first operation waits for nothing. Memory
that nothing was written to yet is NaN. So a wait that is missing makes wrong numbers for some seeds; `races` names it for
every seed, since it keeps for each stretch of memory who used it, and knows which operations are ordered.

Memory that is given back is used again at once by the stream that it was allocated on, as torch's allocators do it.
Nothing here is for threads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from limner.memory.backends.protocol import Capabilities
from tests.memory.double_operations import (
    INDEXED,
    Spec,
    extent,
    find,
    frozen,
    is_composite,
    mapped,
    needs_host,
    results_of,
    signature,
    spec_of,
    tensors_in,
    types_in,
    written_to,
)
from tests.memory.double_queues import Entry, FakeStream, Operation, Scheduler, merge

aten = torch.ops.aten
KIND = "lazy"  # a kind of device that torch knows and guards, but asks no driver about
CPU = torch.device("cpu")
_POISON = 0xFF  # in each byte: NaN in every floating-point dtype, −1 or 255 in integers
_VIEWS = {aten._unsafe_view.default}  # views that their schemas do not call so
_UNKNOWN = {
    aten.set_.source_Storage,
    aten.set_.source_Storage_storage_offset,
    aten.set_.source_Tensor,
    aten.resize_.default,
}


class Access(NamedTuple):
    """That an operation used the bytes from `start` to before `stop` of some memory."""

    start: int
    stop: int
    stream: FakeStream
    number: int  # of the operation in its stream
    writes: bool
    what: str


@dataclass(eq=False)
class Memory:
    """Bytes of the device or of the host, and who used them since they were last written."""

    raw: Tensor
    stream: FakeStream | None = None
    accesses: list[Access] = field(default_factory=list)
    used_before: bool = False

    def add(self, new: Access) -> None:
        """Keep an access, and forget those that tell no more: before a write, and the same stream's earlier reads."""

        def says_less(one: Access) -> bool:
            inside = new.start <= one.start and one.stop <= new.stop
            return inside and (new.writes or (one.stream is new.stream and not one.writes))

        self.accesses = [one for one in self.accesses if not says_less(one)]
        self.accesses.append(new)


class Use(NamedTuple):
    """Memory that an operation uses, from which byte to before which, and whether it writes there."""

    memory: Memory
    start: int
    stop: int
    writes: bool


class Crossing(NamedTuple):
    """A copy between host and device. direct: in the host's own, locked memory. waits: the host, until it is done."""

    from_host: bool
    to_host: bool
    direct: bool
    waits: bool

    def __bool__(self) -> bool:
        return self.from_host or self.to_host


class Pages:
    """A driver that locks pages of host memory. Results as CUDA's: 0, 2 too much, 712 locked already, 713 not locked.

    limit: bytes that it locks at most. failures: results of the next calls of `register`, before anything else. A failed
    call leaves an error that the device's next operation raises, unless it is cleared.
    """

    def __init__(self, device: FakeAccelerator) -> None:
        self.device = device
        self.spans: dict[int, int] = {}
        self.limit = 1 << 62
        self.failures: list[int] = []
        self.registered = self.unregistered = self.cleared = self.peak = 0
        self.error = False

    @property
    def nbytes(self) -> int:
        return sum(self.spans.values())

    def register(self, pointer: int, nbytes: int) -> int:
        result = self.failures.pop(0) if self.failures else 0
        if not result and any(
            pointer < start + size and start < pointer + nbytes for start, size in self.spans.items()
        ):
            result = 712
        if not result and self.nbytes + nbytes > self.limit:
            result = 2
        if result:
            self.error = True
            return result
        self.spans[pointer] = nbytes
        self.registered += 1
        self.peak = max(self.peak, self.nbytes)
        return 0

    def unregister(self, pointer: int) -> int:
        if pointer not in self.spans:
            self.error = True
            return 713
        nbytes = self.spans.pop(pointer)
        self.unregistered += 1
        self.device.host_used(pointer, nbytes, "unregister")
        return 0

    def is_pinned(self, tensor: Tensor) -> bool:
        if isinstance(tensor, DeviceTensor) or not tensor.numel():
            return False
        first, last = extent(tensor)
        base = tensor.untyped_storage().data_ptr()
        return any(start <= base + first and base + last <= start + size for start, size in self.spans.items())

    def clear_error(self) -> None:
        self.cleared += 1
        self.error = False


class Block:
    """Memory of the device that is allocated: given back when the last tensor in it is gone."""

    def __init__(self, device: FakeAccelerator, memory: Memory) -> None:
        self.device, self.memory = device, memory

    def __del__(self) -> None:
        self.device.give_back(self.memory)


class DeviceTensor(Tensor):
    """A tensor of the device: `inner` has its numbers, once they are computed."""

    inner: Tensor
    block: Block

    @staticmethod
    def __new__(cls, inner: Tensor, block: Block) -> DeviceTensor:
        made: DeviceTensor = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=block.device.device,
        )
        made.inner, made.block = inner, block
        return made

    def __repr__(self) -> str:
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if foreign(types):
            return NotImplemented
        device = next(one.block.device for one in tensors_in((args, kwargs)) if isinstance(one, DeviceTensor))
        return device.dispatch(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Shows the device what it would not see: tensors made on it, and those of the host."""

    def __init__(self, device: FakeAccelerator) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NotImplemented if foreign(types) else self.device.dispatch(func, args, kwargs or {})


class FakeAccelerator:
    """A backend with one device. Tensors can be made on it, and host tensors copied to it, inside `with accelerator:`.

    memory: bytes in all. others: bytes that other programs have now. log: what was enqueued, in order. races: pairs of
    operations that use the same memory without being ordered, one of them writing. tag: put beside what is enqueued.
    out_of_memory: how many allocations are yet to fail whatever is free. blocked: how often the host had to wait for a
    stream, other than in `synchronize`.
    """

    def __init__(self, seed: int = 0, memory: int = 1 << 40, concurrent: bool = True, unified: bool = False) -> None:
        self.device = torch.device(KIND, 0)
        self.memory, self.concurrent, self.unified = memory, concurrent, unified
        self.limit = 1 << 62
        self.others = self.out_of_memory = self._used = self._peak = self.trims = self.synchronized = self.blocked = 0
        self.pool: dict[tuple[FakeStream, int], list[Memory]] = defaultdict(list)
        self.scheduler = Scheduler(seed)
        self.compute = self.scheduler.add(self, "compute")
        self.entered = [self.compute]
        self.pages = Pages(self)
        self.log: list[Entry] = []
        self.races: list[str] = []
        self.tag = ""
        self._host_clock: dict[FakeStream, int] = {}
        self._host: dict[int, Memory] = {}
        self._mode = _Mode(self)

    def __enter__(self) -> FakeAccelerator:
        self._mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._mode.__exit__(*error)

    # What a backend answers

    @property
    def kind(self) -> str:
        return KIND

    def count(self) -> int:
        return 1

    def name(self, device: torch.device) -> str:
        return "an accelerator that is none"

    def capabilities(self, device: torch.device) -> Capabilities:
        return Capabilities(KIND, bf16=True, fp16=True)

    def is_unified(self, device: torch.device) -> bool:
        return self.unified

    def total(self, device: torch.device) -> int:
        return self.memory

    def free(self, device: torch.device) -> int:
        return max(0, min(self.memory - self.others, self.limit) - self._used)

    def used(self, device: torch.device) -> int:
        return self._used

    def held(self, device: torch.device) -> int:
        return sum(nbytes * len(memories) for (_, nbytes), memories in self.pool.items())

    def trim(self, device: torch.device) -> None:
        self.trims += 1
        self.pool.clear()

    def cap(self, device: torch.device, nbytes: int) -> None:
        self.limit = nbytes

    def start_peak(self, device: torch.device) -> None:
        self._peak = self._used

    def peak(self, device: torch.device) -> int:
        return self._peak

    def synchronize(self, device: torch.device) -> None:
        self.synchronized += 1
        self.scheduler.run(1 << 30)
        for stream in self.scheduler.streams:
            merge(self._host_clock, stream.clock)

    def stream(self, device: torch.device) -> FakeStream | None:
        if not self.concurrent:
            return None
        return self.scheduler.add(self, f"copy{len(self.scheduler.streams)}")

    def current(self, device: torch.device) -> FakeStream:
        return self.entered[-1]

    def pinning(self) -> Pages:
        return self.pages

    # Memory

    def allocate(self, spec: Spec) -> DeviceTensor:
        """A tensor of whatever numbers. Raises torch.OutOfMemoryError when it does not fit, or is told to."""
        nbytes = prod(spec.shape) * spec.dtype.itemsize
        if any(stride < 0 for stride in spec.stride):
            raise NotImplementedError("negative strides")
        available = min(self.memory - self.others, self.limit)
        if self._used + self.held(self.device) + nbytes > available:
            self.pool.clear()
        if self.out_of_memory or self._used + nbytes > available:
            self.out_of_memory = max(0, self.out_of_memory - 1)
            raise torch.OutOfMemoryError(f"{nbytes} bytes do not fit: {self._used} of {available} are used.")
        waiting = self.pool[self.entered[-1], nbytes]
        memory = waiting.pop() if waiting else self._fresh(nbytes)
        self._used += nbytes
        self._peak = max(self._peak, self._used)
        inner = memory.raw.view(spec.dtype) if nbytes else torch.empty(0, dtype=spec.dtype)
        return DeviceTensor(inner.as_strided(spec.shape, spec.stride), Block(self, memory))

    def _fresh(self, nbytes: int) -> Memory:
        return Memory(torch.full((nbytes,), _POISON, dtype=torch.uint8), self.entered[-1])

    def give_back(self, memory: Memory) -> None:
        """Memory that no tensor uses any more: the stream it was allocated on may write to it from now on."""
        self._used -= memory.raw.numel()
        memory.used_before = True
        if memory.raw.numel() and memory.stream is not None:
            self.pool[memory.stream, memory.raw.numel()].append(memory)

    # Order

    @contextmanager
    def tagged(self, tag: str) -> Iterator[None]:
        """What is enqueued inside the block has this tag."""
        before, self.tag = self.tag, tag
        try:
            yield
        finally:
            self.tag = before

    def enqueue(
        self,
        op: str,
        run: Callable[[], object] | None = None,
        uses: Sequence[Use] = (),
        after: Operation | None = None,
        stream: FakeStream | None = None,
        result: Tensor | None = None,
    ) -> Operation:
        """Give a stream something to do. result: what it makes or writes to, for the log."""
        if self.pages.error:
            raise RuntimeError("The device reports the error of an earlier call: pages could not be locked.")
        stream = stream or self.entered[-1]
        merge(stream.clock, self._host_clock)
        stream.clock[stream] += 1
        for memory, start, stop, writes in uses:
            access = Access(start, stop, stream, stream.clock[stream], writes, f"{op} {self.tag}".strip())
            self._check(memory, access, stream.clock)
            memory.add(access)
        seen = () if result is None else (tuple(result.shape), result.dtype)
        self.log.append(Entry(stream.name, op, self.tag, *seen))
        operation = Operation(stream, run, after)
        stream.queue.append(operation)
        self.scheduler.progress()
        return operation

    def _check(self, memory: Memory, access: Access, clock: dict[FakeStream, int]) -> None:
        for one in memory.accesses:
            overlaps = one.start < access.stop and access.start < one.stop
            if overlaps and (one.writes or access.writes) and clock.get(one.stream, 0) < one.number:
                self.races.append(f"{one.what} on {one.stream} and {access.what} on {access.stream}")

    def host_used(self, base: int, nbytes: int, what: str, writes: bool = True, start: int = 0) -> None:
        """The host uses its memory now: what the device has still to do there is a race."""
        memory = self._host.get(base)
        if memory is not None:
            access = Access(start, start + nbytes, self.compute, 0, writes, f"{what} by the host")
            self._check(memory, access, self._host_clock)

    def _finish(self, operation: Operation, clock: dict[FakeStream, int]) -> None:
        self.blocked += 1
        self.scheduler.finish(operation)
        merge(self._host_clock, clock)

    # Operations

    def dispatch(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Do what an operation does on the host now, and what it does on the device later."""
        if self.scheduler.running:
            return func(*args, **kwargs)
        where = kwargs.get("device")
        first = args[0] if args and isinstance(args[0], DeviceTensor) else None
        if first is None and (where is None or where.type != KIND):
            first = next((one for one in tensors_in((args, kwargs)) if isinstance(one, DeviceTensor)), None)
            if first is None:
                return self._on_host(func, args, kwargs)
        if func in _UNKNOWN:
            raise NotImplementedError(f"{func} of {KIND}")
        if is_composite(func):  # they come here whole in inference mode
            with self._mode:
                return func.decompose(*args, **kwargs)
        if func.is_view or func in _VIEWS:
            assert first is not None
            made = func(*mapped(args, inner), **kwargs)
            return mapped(made, lambda one: DeviceTensor(one, first.block))
        if where is not None and where.type == "cpu" and func is not aten._to_copy.default:
            return func(*mapped(args, inner), **mapped(kwargs, inner))  # of the same shape, on the host
        return self._later(func, args, kwargs)

    def _on_host(self, func: Any, args: Any, kwargs: Any) -> Any:
        written = {id(one) for one in written_to(func, args, kwargs)}
        for one in tensors_in((args, kwargs)) if self._host and not func.is_view else ():
            start, stop = extent(one)
            base = one.untyped_storage().data_ptr()
            self.host_used(base, stop - start, str(func), id(one) in written, start)
        if not kwargs.get("pin_memory"):
            return func(*args, **kwargs)
        made = func(*args, **{**kwargs, "pin_memory": False})
        self.pages.register(made.data_ptr(), made.untyped_storage().nbytes())
        return made

    def _later(self, func: Any, args: Any, kwargs: Any) -> Any:
        written = written_to(func, args, kwargs)
        crossing = self._crossing(func, args, kwargs)
        uses: list[Use] = []

        def resolve(one: Tensor) -> Tensor:
            writes = any(one is other for other in written)
            if isinstance(one, DeviceTensor):
                uses.append(Use(one.block.memory, *extent(one.inner), writes))
                return one.inner
            if crossing.direct:
                uses.append(Use(self._host_memory(one), *extent(one), writes))
            if writes or crossing.direct:
                return one
            if not (crossing or one.ndim == 0 or func in INDEXED):
                raise RuntimeError(
                    f"Expected all tensors on one device: one of {tuple(one.shape)} is on the host. {func}"
                )
            return one.clone()  # staged by the driver before the call returns

        here = {**kwargs, "device": CPU} if kwargs.get("device") is not None else kwargs
        given, named = mapped(args, resolve), mapped(here, resolve)
        if needs_host(func, args):
            return self._now(func, given, named, uses)
        made = self._results(func, args, here, crossing.to_host)
        fresh = [one for one in tensors_in(made) if not any(one is other for other in written)]
        first = (written or fresh or [None])[0]
        for one in fresh:
            if isinstance(one, DeviceTensor):
                uses.append(Use(one.block.memory, *extent(one.inner), True))
            elif not crossing.waits:
                uses.append(Use(self._host_memory(one), *extent(one), True))
        name = func.name().removeprefix("aten::")
        run = _assigning(func, given, named, [inner(one) for one in fresh])
        if name.startswith(("empty", "new_empty")):
            if not first.block.memory.used_before:
                return made  # poison already; memory that was used is poisoned when its stream comes to it
            run = partial(first.block.memory.raw.fill_, _POISON)
        operation = self.enqueue(name, run, uses, result=first)
        if crossing.waits:
            self._finish(operation, dict(operation.stream.clock))
        return made

    def _crossing(self, func: Any, args: Any, kwargs: Any) -> Crossing:
        """How an operation goes between host and device, where it copies."""
        if func is aten.copy_.default:
            target, source = args[:2]
            from_host, to_host = (not isinstance(one, DeviceTensor) for one in (source, target))
            later = len(args) > 2 and args[2]
            host = target if to_host else source
        elif func is aten._to_copy.default:
            where = kwargs.get("device")
            from_host, to_host = not isinstance(args[0], DeviceTensor), where is not None and where.type != KIND
            later, host = kwargs.get("non_blocking"), args[0]
        else:
            return Crossing(False, False, False, False)
        if func is aten._to_copy.default and to_host:  # into memory that torch locks for it
            return Crossing(from_host, to_host, False, not later)
        if not (from_host or to_host):
            return Crossing(False, False, False, False)
        direct = self.pages.is_pinned(host)
        return Crossing(from_host, to_host, direct, not later or (to_host and not direct))

    def _host_memory(self, tensor: Tensor) -> Memory:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._host:  # kept, so that its address stays its own
            self._host[storage.data_ptr()] = Memory(torch.empty(0, dtype=torch.uint8).set_(storage))
        return self._host[storage.data_ptr()]

    def _results(self, func: Any, args: Any, kwargs: Any, to_host: bool) -> Any:
        plain = mapped(args, spec_of), tuple(sorted(mapped(kwargs, spec_of).items()))
        specs = results_of(func, *frozen(plain), types_in(plain))
        returned = [find(args, kwargs, place) for place in signature(func).returned]
        if returned and all(one is not None for one in returned):
            return returned[0] if len(returned) == 1 else tuple(returned)

        def make(spec: Spec) -> Tensor:
            if not to_host:
                return self.allocate(spec)
            made = torch.empty_strided(spec.shape, spec.stride, dtype=spec.dtype)
            made.untyped_storage().fill_(_POISON)
            return made

        return mapped(specs, make)

    def _now(self, func: Any, args: Any, kwargs: Any, uses: Sequence[Use]) -> Any:
        found: list[Any] = []
        name = func.name().removeprefix("aten::")
        operation = self.enqueue(name, lambda: found.append(func(*args, **kwargs)), uses)
        self._finish(operation, dict(operation.stream.clock))

        def keep(one: Tensor) -> Tensor:
            made = self.allocate(spec_of(one))
            made.inner.copy_(one)
            return made

        return mapped(found[0], keep)


def _assigning(func: Any, args: Any, kwargs: Any, targets: list[Tensor]) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            results = func(*args, **kwargs)
            for target, one in zip(targets, tensors_in(results) if targets else (), strict=True):
                target.copy_(one)

    return run


def foreign(types: Any) -> bool:
    """Whether there are tensors of another kind, which are asked first."""
    return any(not issubclass(one, DeviceTensor) and one not in (Tensor, torch.nn.Parameter) for one in types)


def inner(tensor: Tensor) -> Tensor:
    """What holds its numbers."""
    return tensor.inner if isinstance(tensor, DeviceTensor) else tensor
