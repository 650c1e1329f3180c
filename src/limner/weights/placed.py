"""A network whose weights stay on the device, or wait in a file or in pinned memory and are brought when used.

Where a weight is never changes what is computed: patches are applied to the raw weight on the device and the result is
rounded to the dtype that weights are kept in, whether it then stays or not. Quantized weights cross as they are, and
are quantized again when they are patched, where their layout is written at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limner.memory.streaming import Piece, Streamed, footprint, put
from limner.memory.units import Target, Unit, Units
from limner.weights.lazy import LazyTensor, PackedTensor
from limner.weights.ops import Streams
from limner.weights.patches import Patches
from limner.weights.quant.tensor import QuantizedTensor, is_kept

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
DEQUANTIZING = 3
"""The same of a quantized one that is computed with: its numbers, their product with the scales, and that cast."""
REQUANTIZING = 5
"""The same of a quantized one that is patched: its numbers in steps, and those rounded, besides."""


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


@dataclass(frozen=True)
class _Pin:
    """A weight that waits in locked memory, and that memory: of a quantized one, all that it is made of."""

    weight: nn.Parameter
    memory: Tensor


class PlacedNetwork:
    """The network of a source for one device and dtype. Nothing is resident until `bring`.

    Weights that are views of a mapped file on the CPU cost nothing there, whether they count as resident or not.
    """

    def __init__(self, source: NetworkSource, network: nn.Module, target: Target) -> None:
        self.network = network
        self.source = source
        self.target = target
        self._storage = source.storage(target.dtype)
        self._modules = _modules_of(network)
        self._patches = source.patches
        self._resident: set[int] = set()
        self._pins: dict[int, dict[str, _Pin]] = {}
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
        return sum(pin.memory.nbytes for pins in self._pins.values() for pin in pins.values())

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
            pins: dict[str, _Pin] = {}
            for leaf in one.leaves:
                pin = _locked(self._waiting(one.prefix + leaf), memory)
                if pin is not None:
                    pins[leaf] = pin
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
        compute = self._compute
        for leaf in one.leaves:
            name = one.prefix + leaf
            entry, kept = self.source.tensors[name], self._like(name)
            size = kept.numel()
            if self.target.device.type == "cpu" and kept.ndim >= CONVOLUTION:
                packed = max(packed, size * compute.itemsize)
            if isinstance(entry, PackedTensor) and not isinstance(one.module, nn.Embedding):
                packed = max(packed, DEQUANTIZING * size * 4)
            if self._is_view(name):
                continue
            piece = self._piece_of(name)
            resident += kept.nbytes
            moved += entry.nbytes
            streamed += piece.nbytes(compute)
            if not piece.is_raw(compute):
                copies = REQUANTIZING if isinstance(entry, PackedTensor) else PATCHING
                making = max(making, entry.nbytes + (0 if piece.patch is None else copies * size * 4))
        return Unit(one.prefix.removesuffix("."), resident, streamed, moved, not one.order, making, packed)

    @property
    def _compute(self) -> torch.dtype:
        return self.target.compute or self._storage or torch.float32

    def _has_patches(self, index: int) -> bool:
        return any(self.source.prefix + name in self._patches for name in self._modules[index].names())

    def _is_view(self, name: str) -> bool:
        """Whether the weight as it is computed with is a view of the file: on the CPU, unchanged."""
        entry = self.source.tensors[name]
        return (
            self.target.device.type == "cpu"
            and not self.target.streamer.is_accelerator
            and entry.is_view
            and (isinstance(entry, PackedTensor) or self._dtype(entry) == entry.dtype)
            and self.source.prefix + name not in self._patches
            and self._layout(entry) == torch.contiguous_format
        )

    def _dtype(self, entry: LazyTensor) -> torch.dtype:
        if not entry.dtype.is_floating_point:
            return entry.dtype
        wanted = self._storage or entry.dtype
        # Norms and biases are too few to be worth eight bits.
        return torch.float32 if wanted in FLOATS_OF_A_BYTE and len(entry.shape) < 2 else wanted

    def _like(self, name: str) -> Tensor:
        """What a weight is like as it is kept on the device, perhaps without its numbers."""
        entry, key = self.source.tensors[name], self.source.prefix + name
        shape, dtype = entry.shape, self._dtype(entry)
        if key in self._patches:
            shape = self._patches.shapes().get(key, entry.shape)
        if isinstance(entry, PackedTensor) and (key not in self._patches or is_kept(entry.like, shape)):
            return entry.like.to(dtype)
        return torch.empty(shape, dtype=dtype, device="meta")

    def _layout(self, entry: LazyTensor) -> torch.memory_format:
        wide = self.target.channels_last and len(entry.shape) == 4 and not isinstance(entry, PackedTensor)
        return torch.channels_last if wide else torch.contiguous_format

    def _patch(self, name: str) -> Callable[[Tensor], Tensor] | None:
        key, patches, dtype = self.source.prefix + name, self._patches, self._dtype(self.source.tensors[name])
        return (lambda raw: patches.apply_kept(key, raw).to(dtype)) if key in patches else None

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
            _put(one.module, leaf, pins[leaf].weight if leaf in pins else self._shown(one.prefix + leaf))
        if all(self._is_view(name) for name in one.names()):
            self._leave_stream(one.module)
            return
        pieces = tuple(
            self._piece_of(one.prefix + leaf, pins.get(leaf)) if leaf in one.leaves else None for leaf in one.order
        )
        self._leave_stream(one.module)
        one.module.streamed = Streamed(self.target.streamer, pieces, self._compute)  # type: ignore[assignment]

    def _shown(self, name: str) -> Tensor:
        """What is seen of a weight that waits: a view of the file, or numbers that are none where it has none."""
        entry = self.source.tensors[name]
        if entry.is_view or not entry.dtype.is_floating_point:
            return entry.read().to(self._dtype(entry)) if isinstance(entry, PackedTensor) else entry.read()
        return torch.full((1,), torch.nan).to(entry.dtype).expand(entry.shape)

    def _piece_of(self, name: str, pin: _Pin | None = None) -> Piece:
        entry = self.source.tensors[name]
        raw: Tensor
        if pin is not None:
            raw = pin.weight
        elif isinstance(entry, PackedTensor):
            raw = entry.like
        else:
            raw = torch.empty(entry.shape, dtype=entry.dtype, device="meta")
        host = entry.read if pin is None else (lambda: pin.weight)
        return Piece(host, raw, self._like(name), self._layout(entry), self._patch(name))

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
        for pin in pins.values():
            self._pinned.unpin(pin.memory)

    def _in_order(self) -> None:
        """What is used after what, before it is known: the order in which the network has its modules."""
        waiting = [streamed for one in self._modules if (streamed := getattr(one.module, "streamed", None)) is not None]
        for streamed, after in zip(waiting, [*waiting[1:], *waiting[:1]], strict=True):
            streamed.after = after


def _modules_of(network: nn.Module) -> list[_Module]:
    found = []
    for name, module in network.named_modules():
        leaves = tuple(_weights(module))
        if leaves:
            found.append(_Module(module, f"{name}." if name else "", leaves))
    return found


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters, and its buffers that are saved. What packs' layers put into `state_dict` may differ."""
    own: dict[str, Tensor] = dict(module.named_parameters(recurse=False))
    kept = module.state_dict(keep_vars=True) if module._buffers else {}
    return own | {leaf: value for leaf, value in module.named_buffers(recurse=False) if leaf in kept}


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """All that a file has to hold of a network, by name."""
    found: dict[str, Tensor] = {}
    for one in _modules_of(network):
        found |= {one.prefix + leaf: value for leaf, value in _weights(one.module).items()}
    return found


def _locked(waiting: Tensor, memory: PinnedMemory) -> _Pin | None:
    """A copy of a weight in locked memory; None where that was not to be had."""
    if isinstance(waiting, QuantizedTensor):
        room = torch.empty(footprint(waiting), dtype=torch.uint8)
        weight, _ = put(waiting, room, 0)
        if not memory.pin_inner([room]):
            return None
        return _Pin(nn.Parameter(weight, requires_grad=False), room)
    copy = nn.Parameter(waiting.clone(memory_format=torch.contiguous_format), requires_grad=False)
    return _Pin(copy, copy) if copy.is_floating_point() and memory.pin(copy) else None


def _put(module: nn.Module, leaf: str, value: Tensor) -> None:
    if isinstance(getattr(module, leaf), nn.Parameter):
        setattr(module, leaf, value if isinstance(value, nn.Parameter) else nn.Parameter(value, requires_grad=False))
    else:
        setattr(module, leaf, value)
