"""A network whose weights stay on the device, or wait in a file or in pinned memory and are brought when used.

Where a weight is never changes what is computed: patches are applied to the raw weight on the device and the result is
rounded to the dtype that weights are kept in, whether it then stays or not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limner.memory.streaming import ALIGNMENT, Piece, Streamed
from limner.memory.units import Target, Unit, Units
from limner.weights.lazy import LazyTensor
from limner.weights.ops import Streams
from limner.weights.patches import Patches

if TYPE_CHECKING:
    from limner.memory.pinned import PinnedMemory
    from limner.weights.source import NetworkSource

FLOATS_OF_A_BYTE = frozenset(
    getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu") if hasattr(torch, name)
)
CONVOLUTION = 3
"""Axes of a weight from which on it is a convolution's."""
PATCHING = 3
"""Float32 copies of a weight that patching it takes at once: the weight, its change, and their sum."""


@dataclass(frozen=True)
class _Module:
    """A module with weights of its own: their names in it, and what they are called in the file."""

    module: nn.Module
    prefix: str
    leaves: tuple[str, ...]

    @property
    def order(self) -> tuple[str, ...]:
        """Its weights as its operation takes them, where they can be streamed; else none."""
        found = self.module.streams if isinstance(self.module, Streams) else ()
        return found if set(self.leaves) <= set(found) else ()

    def names(self) -> list[str]:
        """As the file calls them."""
        return [self.prefix + leaf for leaf in self.leaves]


class PlacedNetwork:
    """The network of a source for one device and dtype. Nothing is resident until `bring`.

    Weights that are views of a mapped file on the CPU cost nothing there, whether they count as resident or not.
    """

    def __init__(self, source: NetworkSource, network: nn.Module, target: Target) -> None:
        self.network = network
        self.source = source
        self.target = target
        self._modules = _modules_of(network)
        self._patches = source.patches
        self._resident: set[int] = set()
        self._pins: dict[int, dict[str, nn.Parameter]] = {}
        self._pinned: PinnedMemory | None = None
        self.units = Units(self._unit(one) for one in self._modules)
        for index in range(len(self._modules)):
            self._wait(index)
        self._in_order()

    @property
    def resident(self) -> Collection[int]:
        """The units that are on the device."""
        return self._resident

    @property
    def patched(self) -> int:
        """How many units that are not resident are patched each time they are used."""
        return sum(1 for i in range(len(self.units)) if i not in self._resident and self._has_patches(i))

    @property
    def pinned(self) -> int:
        """Bytes of page-locked memory that units wait in."""
        return sum(value.nbytes for pins in self._pins.values() for value in pins.values())

    def bring(self, indexes: Collection[int]) -> None:
        """Put units on the device, patched, one after the other; the file's pages are given back after each."""
        for index in indexes:
            one = self._modules[index]
            values = {leaf: self._kept(one.prefix + leaf) for leaf in one.leaves}
            for leaf, value in values.items():
                _put(one.module, leaf, value)
            self._unstream(index)
            self._resident.add(index)

    def drop(self, indexes: Collection[int]) -> None:
        """Take units off the device; they are streamed from then on."""
        for index in indexes:
            self._resident.discard(index)
            self._wait(index)
        self._in_order()

    def repatch(self, patches: Patches) -> int:
        """Let it be a network with these patches: only what differs is taken off, to be read and patched again."""
        before, prefix = self._patches, self.source.prefix
        keys = {*before, *patches}
        changed = {key.removeprefix(prefix) for key in keys if before.key_digest(key) != patches.key_digest(key)}
        touched = [index for index, one in enumerate(self._modules) if changed.intersection(one.names())]
        self._patches = patches
        units = list(self.units)
        for index in touched:
            units[index] = self._unit(self._modules[index])
        self.units = Units(units)
        for index in touched:
            if index in self._resident and self.units[index].fixed:
                self.bring([index])
            else:
                self._resident.discard(index)
                self._wait(index)
        self._in_order()
        return len(touched)

    def pin(self, memory: PinnedMemory) -> None:
        """Let units that are streamed wait in page-locked memory, as far as that reaches."""
        self._pinned = memory
        for index, one in enumerate(self._modules):
            if index in self._resident or index in self._pins or self.units[index].fixed or not memory.has_room:
                continue
            pins: dict[str, nn.Parameter] = {}
            for leaf in one.leaves:
                waiting = self._waiting(one.prefix + leaf).clone(memory_format=torch.contiguous_format)
                copy = nn.Parameter(waiting, requires_grad=False)
                if copy.is_floating_point() and memory.pin(copy):
                    pins[leaf] = copy
                    self.source.tensors[one.prefix + leaf].release()
            if pins:
                self._pins[index] = pins
                self._wait(index, keep_pins=True)
        self._in_order()

    def close(self) -> None:
        """Give back everything. Who still has the network can use it: its weights are read when they are used."""
        self.drop([index for index in range(len(self.units)) if not self.units[index].fixed])

    # -- one unit -------------------------------------------------------------------------------------------------

    def _unit(self, one: _Module) -> Unit:
        """What a module's weights take here and there."""
        resident = moved = streamed = making = packed = 0
        compute = self.target.compute or self.target.dtype or torch.float32
        for name in one.names():
            entry, key = self.source.tensors[name], self.source.prefix + name
            shape = self._patches.shapes().get(key, entry.shape) if key in self._patches else entry.shape
            if self.target.device.type == "cpu" and len(shape) >= CONVOLUTION:
                packed = max(packed, prod(shape) * compute.itemsize)
            if self._is_view(name):
                continue
            resident += prod(shape) * self._dtype(entry).itemsize
            moved += entry.nbytes
            streamed += -(-entry.nbytes // ALIGNMENT) * ALIGNMENT
            floats = PATCHING * prod(shape) * 4 if key in self._patches else 0
            if self._dtype(entry) != entry.dtype or compute != entry.dtype or floats:
                streamed += prod(shape) * compute.itemsize
                making = max(making, entry.nbytes + floats)
        return Unit(one.prefix.removesuffix("."), resident, streamed, moved, not one.order, making, packed)

    def _has_patches(self, index: int) -> bool:
        return any(self.source.prefix + name in self._patches for name in self._modules[index].names())

    def _is_view(self, name: str) -> bool:
        """Whether the weight as it is computed with is a view of the file: on the CPU, unchanged."""
        entry = self.source.tensors[name]
        return (
            self.target.device.type == "cpu"
            and not self.target.streamer.is_accelerator
            and entry.is_view
            and self._dtype(entry) == entry.dtype
            and self.source.prefix + name not in self._patches
            and self._layout(entry) == torch.contiguous_format
        )

    def _dtype(self, entry: LazyTensor) -> torch.dtype:
        if not entry.dtype.is_floating_point:
            return entry.dtype
        wanted = self.target.dtype or entry.dtype
        # Norms and biases are too few to be worth eight bits.
        return torch.float32 if wanted in FLOATS_OF_A_BYTE and len(entry.shape) < 2 else wanted

    def _layout(self, entry: LazyTensor) -> torch.memory_format:
        wide = self.target.channels_last and len(entry.shape) == 4
        return torch.channels_last if wide else torch.contiguous_format

    def _patch(self, name: str) -> Callable[[Tensor], Tensor] | None:
        key, patches, dtype = self.source.prefix + name, self._patches, self._dtype(self.source.tensors[name])
        return (lambda raw: patches.apply(key, raw).to(dtype)) if key in patches else None

    def _kept(self, name: str) -> Tensor:
        """A weight as it stays on the device."""
        entry, patch = self.source.tensors[name], self._patch(name)
        raw = entry.read()
        there = self.target.streamer.copied(raw)
        value = there.to(self._dtype(entry)) if patch is None else patch(there)
        value = value.contiguous(memory_format=self._layout(entry))
        if value.device.type != "cpu" or value.data_ptr() != raw.data_ptr():
            entry.release()
        elif self.target.streamer.is_accelerator:
            value = value.clone()
        return value

    def _waiting(self, name: str) -> Tensor:
        """A weight as it waits in pinned memory: in the dtype that it is kept in, unless it is patched first."""
        entry = self.source.tensors[name]
        raw = entry.read()
        return raw if self._patch(name) is not None else raw.to(self._dtype(entry))

    def _wait(self, index: int, keep_pins: bool = False) -> None:
        """Let a unit wait to be streamed: its weights seem to be what the file holds."""
        if not keep_pins:
            self._unpin(index)
        one = self._modules[index]
        if not one.order:
            return
        pins = self._pins.get(index, {})
        for leaf in one.leaves:
            _put(one.module, leaf, pins.get(leaf, self._shown(one.prefix + leaf)))
        if all(self._is_view(name) for name in one.names()):
            self._leave_stream(one.module)
            return
        pieces = tuple(self._piece(one, leaf, pins) for leaf in one.order)
        dtype = self.target.compute or self.target.dtype or torch.float32
        self._leave_stream(one.module)
        one.module.streamed = Streamed(self.target.streamer, pieces, dtype)  # type: ignore[assignment]

    def _shown(self, name: str) -> Tensor:
        """What is seen of a weight that waits: a view of the file, or numbers that are none where it has none."""
        entry = self.source.tensors[name]
        if entry.is_view or not entry.dtype.is_floating_point:
            return entry.read()
        return torch.full((1,), torch.nan).to(entry.dtype).expand(entry.shape)

    def _piece(self, one: _Module, leaf: str, pins: Mapping[str, nn.Parameter]) -> Piece | None:
        if leaf not in one.leaves:
            return None
        name = one.prefix + leaf
        entry, pin = self.source.tensors[name], pins.get(leaf)
        key = self.source.prefix + name
        grown = self._patches.shapes().get(key, entry.shape) if key in self._patches else entry.shape
        return Piece(
            entry.read if pin is None else (lambda: pin),
            entry.dtype if pin is None else pin.dtype,
            self._dtype(entry),
            tuple(grown),
            self._layout(entry),
            self._patch(name),
        )

    def _unstream(self, index: int) -> None:
        self._unpin(index)
        self._leave_stream(self._modules[index].module)

    @staticmethod
    def _leave_stream(module: Any) -> None:
        streamed = getattr(module, "streamed", None)
        if streamed is not None:
            streamed.close()
            module.streamed = None

    def _unpin(self, index: int) -> None:
        pins = self._pins.pop(index, {})
        if not pins or self._pinned is None:
            return
        self.target.streamer.synchronize()  # no copy from it may be under way
        for value in pins.values():
            self._pinned.unpin(value)

    def _in_order(self) -> None:
        """What is used after what, before it is known: the order in which the network has its modules."""
        waiting = [streamed for one in self._modules if (streamed := getattr(one.module, "streamed", None)) is not None]
        for streamed, after in zip(waiting, [*waiting[1:], *waiting[:1]], strict=True):
            streamed.after = after


def _modules_of(network: nn.Module) -> list[_Module]:
    found = []
    for name, module in network.named_modules():
        own = [leaf for leaf, value in module.named_parameters(recurse=False) if value is not None]
        kept = module.state_dict(keep_vars=True) if module._buffers else {}
        leaves = (*own, *(leaf for leaf, _ in module.named_buffers(recurse=False) if leaf in kept))
        if leaves:
            found.append(_Module(module, f"{name}." if name else "", leaves))
    return found


def _put(module: nn.Module, leaf: str, value: Tensor) -> None:
    if isinstance(getattr(module, leaf), nn.Parameter) and value.is_floating_point():
        setattr(module, leaf, value if isinstance(value, nn.Parameter) else nn.Parameter(value, requires_grad=False))
    else:
        setattr(module, leaf, value)
