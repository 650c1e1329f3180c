"""A tensor that is still on disk: what it is, and how to read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor


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
        dense = tensor.numel() * tensor.dtype.itemsize
        if tensor.nbytes != dense:
            return PackedTensor(
                tensor.dtype, tuple(tensor.shape), lambda: tensor, is_view=True, stored=tensor.nbytes / tensor.numel()
            )
        return cls(tensor.dtype, tuple(tensor.shape), lambda: tensor, is_view=tensor.is_contiguous())

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
        return replace(self, read=lambda: self.read().roll(self.shape[0] // 2, 0), is_view=False)

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

        return cls(first.dtype, (rows, *first.shape[1:]), read, release)


@dataclass(frozen=True)
class PackedTensor(LazyTensor):
    """A lazy tensor whose bytes are fewer than its dtype's. stored: bytes for a weight. layout: the name of its way."""

    stored: float = 0.0
    layout: str = ""

    @property
    def nbytes(self) -> int:
        """Size in bytes as it is kept."""
        return round(prod(self.shape) * self.stored)
