"""A tensor that is still on disk: what it is, and how to read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import Tensor

from limner.weights.quant import operations
from limner.weights.quant.tensor import QuantizedTensor


@dataclass(frozen=True)
class LazyTensor:
    """A tensor's dtype and shape, and a function that reads it.

    `read` gives a view of the mapped file where it can, so it must not be written to; `release` tells the system that
    the pages behind it are not needed for now. Derived tensors (`reshape`, `narrow`, `transpose`) stay lazy.
    is_view: reading takes no memory: it is contiguous numbers of a mapped file, or of a tensor that is there anyway.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    release: Callable[[], None] = lambda: None
    is_view: bool = False

    @property
    def nbytes(self) -> int:
        """Size in bytes in its own dtype."""
        return prod(self.shape) * self.dtype.itemsize

    @classmethod
    def of(cls, tensor: Tensor) -> LazyTensor:
        """A tensor that is in memory already, seen as a lazy one; a quantized one counts as what it takes."""
        shape = tuple(tensor.shape)
        if isinstance(tensor, QuantizedTensor):
            return PackedTensor(tensor.dtype, shape, lambda: tensor, is_view=True, like=tensor)
        return cls(tensor.dtype, shape, lambda: tensor, is_view=tensor.is_contiguous())

    def reshape(self, *shape: int) -> LazyTensor:
        """The same numbers in another shape."""
        return replace(self, shape=shape, read=lambda: self.read().reshape(shape))

    def narrow(self, start: int, length: int) -> LazyTensor:
        """Rows start … start + length of the first axis."""
        return replace(self, shape=(length, *self.shape[1:]), read=lambda: self.read().narrow(0, start, length))

    def transpose(self) -> LazyTensor:
        """A matrix, transposed."""
        return replace(self, shape=self.shape[::-1], read=lambda: self.read().t(), is_view=False)

    def swapped(self) -> LazyTensor:
        """The second half of the rows, then the first."""
        half = self.shape[0] // 2

        def read() -> Tensor:
            whole = self.read()
            return torch.cat([whole[-half:], whole[:-half]]) if half else whole

        return replace(self, read=read, is_view=False)

    @classmethod
    def cat(cls, parts: Sequence[LazyTensor]) -> LazyTensor:
        """The rows of several, one after the other, in the dtype of the first; a part alone is itself."""
        if len(parts) == 1:
            return parts[0]
        first, rows = parts[0], sum(part.shape[0] for part in parts)

        def read() -> Tensor:
            return torch.cat([part.read().to(first.dtype) for part in parts])

        def release() -> None:
            for part in parts:
                part.release()

        whole = cls(first.dtype, (rows, *first.shape[1:]), read, release)
        packed = [part.like for part in parts if isinstance(part, PackedTensor)]
        return whole.packed(operations.joined(packed) if len(packed) == len(parts) else None)

    def packed(self, like: QuantizedTensor | None) -> LazyTensor:
        """The same, which is read quantized as `like` is; None for one that is not."""
        common = (self.dtype, self.shape, self.read, self.release, self.is_view)
        return LazyTensor(*common) if like is None else PackedTensor(*common, like=like)


@dataclass(frozen=True)
class PackedTensor(LazyTensor):
    """A lazy tensor that is read as a quantized one. like: such a one; its numbers need not be there.

    Derived ones stay packed where the layout allows it.
    """

    like: QuantizedTensor = field(kw_only=True)

    @property
    def nbytes(self) -> int:
        """Size in bytes as it is kept."""
        return self.like.nbytes

    @property
    def layout(self) -> str:
        """The name of its layout."""
        return self.like.packing.name

    def reshape(self, *shape: int) -> LazyTensor:
        """The same weights in another shape."""
        return super().reshape(*shape).packed(operations.viewed(self.like, shape))

    def narrow(self, start: int, length: int) -> LazyTensor:
        """Rows start … start + length of the first axis."""
        return super().narrow(start, length).packed(operations.chosen(self.like, slice(start, start + length)))

    def transpose(self) -> LazyTensor:
        """A matrix, transposed."""
        return super().transpose().packed(self.like.turned())

    def swapped(self) -> LazyTensor:
        """The second half of the rows, then the first."""
        half = self.shape[0] // 2
        halves = [operations.chosen(self.like, one) for one in (slice(-half, None), slice(-half))] if half else []
        packed = [one for one in halves if one is not None]
        return super().swapped().packed(operations.joined(packed) if len(packed) == 2 else None)
