"""Weights that do not stay on their device: brought when a module is used, the next ones while it computes.

Each device has a ring of equal buffers. When module k is reached, its weights are in one of them already: what module
k − 1 used is free from then on, so the weights of module k + 1 are copied there on the copy stream while k computes.
The copy stream waits for the reader of the old contents, the compute stream waits once for the new ones. Raw weights,
casts, patches and biases are all made on the copy stream, so that nothing of a module arrives later than that wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from limner.memory.backends.cpu import pages_of_their_own
from limner.memory.backends.protocol import Backend, Event, Stream

ALIGNMENT = 256
"""Bytes at whose multiples tensors in a buffer begin: what kernels like."""


@dataclass(frozen=True)
class Piece:
    """One weight of a module that does not stay.

    host: reads it as it waits in RAM, raw. raw, kept: tensors like that, and like the weight as it is kept once it is
    on a device; their numbers need not be there. patch: raw weights on the device → the patched ones as they are kept;
    None where a cast says it all. layout: of its numbers.

    Quantized weights are any that are made of other tensors, as torch knows them; these cross, and stay what they are.
    """

    host: Callable[[], Tensor]
    raw: Tensor
    kept: Tensor
    layout: torch.memory_format = torch.contiguous_format
    patch: Callable[[Tensor], Tensor] | None = None

    def made(self, raw: Tensor, compute: torch.dtype) -> Tensor:
        """The weight for a computation, from its raw form on the device."""
        return self.patched(raw).to(compute).contiguous(memory_format=self.layout)

    def patched(self, raw: Tensor) -> Tensor:
        """The weight as it is kept, from its raw form."""
        return raw.to(self.kept.dtype) if self.patch is None else self.patch(raw)

    def is_raw(self, compute: torch.dtype) -> bool:
        """Whether the raw form is what is computed with."""
        same = is_made_of_tensors(self.raw) or self.raw.dtype == self.kept.dtype == compute
        return self.patch is None and same and self.layout == torch.contiguous_format

    def nbytes(self, compute: torch.dtype) -> int:
        """Bytes of a buffer that it takes: raw, and as it is computed with where that is another form."""
        raw = footprint(self.raw)
        if self.is_raw(compute):
            return raw
        if is_made_of_tensors(self.kept):
            return raw + footprint(self.kept, least=4)  # a scale of 16 bits may become one of 32
        return raw + _aligned(self.kept.numel() * compute.itemsize)


@dataclass(eq=False)
class Streamed:
    """A module's weights in the order in which its operation takes them: weight, bias.

    dtype: that they were last wanted in; what a prefetch makes. after: what was used next when this was used last.
    """

    streamer: Streamer
    pieces: tuple[Piece | None, ...]
    dtype: torch.dtype
    after: Streamed | None = None

    def arrive(self, dtype: torch.dtype) -> tuple[Tensor | None, ...]:
        """The weights on the device in a dtype. They are valid until the next module asks for its own."""
        return self.streamer.arrive(self, dtype)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of a table, its first weight: only they are brought. ids: (…) → (…, width)."""
        piece = self.pieces[0]
        if piece is None:
            raise TypeError("This module has no table.")
        table = piece.host() if piece.patch is None else piece.patch(piece.host())
        if is_made_of_tensors(table):
            table = table.to(piece.kept.dtype)  # what its rows are dequantized to
        found = torch.nn.functional.embedding(ids.to(table.device), table)
        return found.to(ids.device, piece.kept.dtype)

    def nbytes(self, dtype: torch.dtype) -> int:
        """Bytes of a buffer that it takes."""
        return sum(piece.nbytes(dtype) for piece in self.pieces if piece is not None)

    def close(self) -> None:
        """It is not streamed any more, or its weights are others now."""
        self.streamer.forget(self)
        self.after = None


@dataclass(eq=False)
class _Slot:
    """A buffer, what it holds, when that has arrived, and when its reader is done."""

    buffer: Tensor
    holds: Streamed | None = None
    dtype: torch.dtype | None = None
    tensors: tuple[Tensor | None, ...] = ()
    arrived: Event | None = None
    read: Event | None = None


@dataclass(eq=False)
class Streamer:
    """Brings the weights of a device's networks that do not stay there.

    count: of buffers; one means no copy beside the computation. non_blocking: do not wait for copies in order either.
    On a device without copy streams, as the CPU, each weight is made when it is used and let go after it.
    """

    backend: Backend
    device: torch.device
    count: int = 2
    non_blocking: bool = False
    _slots: list[_Slot] = field(default_factory=list)
    _stream: Stream | None = None
    _using: _Slot | None = None
    _last: Streamed | None = None
    _known: bool = False

    @property
    def is_accelerator(self) -> bool:
        """Whether weights have to be copied to the device to be used there."""
        self._copies()
        return self.device.type != "cpu" or self._stream is not None

    @property
    def buffers(self) -> int:
        """How many buffers a module's weights need at once: 0 where they are made in place."""
        return self.count if self._copies() is not None else 1

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers that there are."""
        return sum(slot.buffer.nbytes for slot in self._slots)

    @property
    def copies(self) -> Stream | None:
        """The stream that weights are copied on; None where that is done in the order of the computation."""
        return self._copies()

    def reserve(self, nbytes: int) -> None:
        """Make the buffers this large; larger ones stay."""
        if self._copies() is None or (self._slots and self._slots[0].buffer.nbytes >= nbytes):
            return
        self.release()
        buffers = [torch.empty(_aligned(nbytes), dtype=torch.uint8, device=self.device) for _ in range(self.count)]
        # The allocator gives memory whose last use may still be ahead on the stream it is allocated for.
        last = self.backend.current(self.device).record()
        self._slots = [_Slot(buffer, read=last) for buffer in buffers]

    def release(self) -> None:
        """Let the buffers go, once nothing reads or fills them any more."""
        if self._slots:
            self.backend.synchronize(self.device)
        self._slots.clear()
        self._using = self._last = None

    def synchronize(self) -> None:
        """Wait until nothing is copied any more."""
        self.backend.synchronize(self.device)

    def forget(self, item: Streamed) -> None:
        """Hand out nothing that a buffer holds of it."""
        for slot in self._slots:
            if slot.holds is item:
                slot.holds = None
        if self._last is item:
            self._last = None

    def arrive(self, item: Streamed, dtype: torch.dtype) -> tuple[Tensor | None, ...]:
        """A module's weights; they are valid until the next call."""
        item.dtype = dtype
        if self._copies() is None or torch.compiler.is_compiling():
            return self.directly(item, dtype)
        if self._using is not None and self._using.holds is item and self._using.dtype == dtype:
            return self._using.tensors  # a part of the same module after another
        self.reserve(item.nbytes(dtype))
        compute = self.backend.current(self.device)
        if self._using is not None:  # the operation that reads it has been enqueued since
            self._using.read, self._using = compute.record(), None
        if self._last is not None:
            self._last.after = item
        slot = self._holding(item, dtype) or self._fetch(item, self._free(()))
        if slot.arrived is not None:
            compute.wait(slot.arrived)
        self._using, self._last = slot, item
        self._look_ahead(item)
        return slot.tensors

    def directly(self, item: Streamed, dtype: torch.dtype) -> tuple[Tensor | None, ...]:
        """A module's weights made in the order of the computation, in memory of their own."""
        # In malloc's heap a weight that goes again leaves a gap among the activations.
        with nullcontext() if torch.compiler.is_compiling() else pages_of_their_own():
            return tuple(
                None if piece is None else piece.made(self.copied(piece.host()), dtype) for piece in item.pieces
            )

    def copied(self, host: Tensor) -> Tensor:
        """A weight from RAM on the device, in the order of the computation; itself where it is there."""
        return host.to(self.device, non_blocking=self.non_blocking)

    def _copies(self) -> Stream | None:
        if not self._known:
            self._stream = self.backend.stream(self.device)
            self._known = True
        return self._stream if self.count > 1 else None

    def _holding(self, item: Streamed, dtype: torch.dtype) -> _Slot | None:
        return next((slot for slot in self._slots if slot.holds is item and slot.dtype == dtype), None)

    def _free(self, wanted: Sequence[Streamed]) -> _Slot:
        """The buffer to fill next: not the one that is read now, and best one that holds nothing of use."""
        others = [slot for slot in self._slots if slot is not self._using]
        return next((slot for slot in others if slot.holds is None or slot.holds not in wanted), others[0])

    def _look_ahead(self, item: Streamed) -> None:
        coming: list[Streamed] = []
        after = item.after
        while after is not None and after is not item and len(coming) < self.count - 1:
            coming.append(after)
            after = after.after
        for one in coming:
            if self._holding(one, one.dtype) is None and one.nbytes(one.dtype) <= self._slots[0].buffer.nbytes:
                self._fetch(one, self._free([item, *coming]))

    def _fetch(self, item: Streamed, slot: _Slot) -> _Slot:
        stream: Any = self._copies()
        slot.holds = None  # until it is filled: an error must leave nothing half made behind
        with stream.entered():
            if slot.read is not None:
                stream.wait(slot.read)
                slot.read = None
            place, tensors = 0, []
            for piece in item.pieces:
                tensor, place = (None, place) if piece is None else _fill(piece, slot.buffer, place, item.dtype)
                tensors.append(tensor)
            slot.arrived = stream.record()
        slot.holds, slot.dtype, slot.tensors = item, item.dtype, tuple(tensors)
        return slot


def _fill(piece: Piece, buffer: Tensor, place: int, compute: torch.dtype) -> tuple[Tensor, int]:
    """Copy one weight into a buffer and make of it what is computed with. Returns that, and where the next begins."""
    raw, place = put(piece.host(), buffer, place)
    if piece.is_raw(compute):
        return raw.to(compute), place
    made = piece.patched(raw)
    if is_made_of_tensors(made):
        made, place = put(made, buffer, place)
        return made.to(compute), place
    target = _view(buffer, place, tuple(made.shape), compute)
    if piece.layout != torch.contiguous_format:
        target = target.as_strided(made.shape, _strides(tuple(made.shape), piece.layout))
    target.copy_(made)
    return target, place + _aligned(target.numel() * compute.itemsize)


def is_made_of_tensors(tensor: Tensor) -> bool:
    """Whether a tensor's numbers are those of others, as torch's protocol of flattening names them."""
    return is_traceable_wrapper_subclass(tensor)


def put(tensor: Tensor, buffer: Tensor, place: int) -> tuple[Tensor, int]:
    """A copy of a tensor in a buffer, its numbers in their order in memory. Returns it, and where the next begins.

    One that is made of others is made of copies of them.
    """
    if is_traceable_wrapper_subclass(tensor):
        names, context = tensor.__tensor_flatten__()
        copies: dict[str, Tensor] = {}
        for name in names:
            copies[name], place = put(getattr(tensor, name), buffer, place)
        made: Tensor = tensor.__tensor_unflatten__(copies, context, tensor.shape, tensor.stride())
        return made, place
    copy = _view(buffer, place, tuple(tensor.shape), tensor.dtype)
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        copy = copy.as_strided(tensor.shape, tensor.stride())
    copy.copy_(tensor, non_blocking=True)
    return copy, place + _aligned(copy.numel() * copy.element_size())


def footprint(tensor: Tensor, least: int = 1) -> int:
    """Bytes of a buffer that a copy of it takes. least: for a number of the scales of one that is made of others."""
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        inner = [getattr(tensor, name) for name in names]
        numbers, scales = footprint(inner[0]), inner[1:]
        return numbers + sum(_aligned(one.numel() * max(one.element_size(), least)) for one in scales)
    return _aligned(tensor.numel() * tensor.element_size())


def _view(buffer: Tensor, place: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return buffer[place : place + prod(shape) * dtype.itemsize].view(dtype).view(shape)


def _strides(shape: tuple[int, ...], layout: torch.memory_format) -> tuple[int, ...]:
    return torch.empty(shape, device="meta").contiguous(memory_format=layout).stride()


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
