"""A file seen as memory: tensors that are views of it, or copies read on demand where mapping is not wanted."""

from __future__ import annotations

import mmap
import sys
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from limner.weights.lazy import LazyTensor

# Linux refuses a private writable mapping larger than memory unless told that nothing will be written; Python has the
# constant only from 3.11.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000) if sys.platform.startswith("linux") else 0


class MappedFile:
    """A file opened for reading tensors at byte offsets.

    With `use_mmap` the tensors share the file's pages (zero copy). The mapping is private: writing into such a tensor
    changes this process's copy of the page and never the file. Without it each read allocates.
    """

    def __init__(self, path: Path, use_mmap: bool = True) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._map = _map(path) if use_mmap and self.size else None

    def tensor(self, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """The contiguous tensor whose bytes start at `offset`; the caller has checked the bounds."""
        count = prod(shape)
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        nbytes = count * dtype.itemsize
        if self._map is None:
            with self.path.open("rb") as file:
                file.seek(offset)
                return torch.frombuffer(bytearray(file.read(nbytes)), dtype=dtype).reshape(shape)
        raw = torch.frombuffer(self._map, dtype=torch.uint8, count=nbytes, offset=offset)
        if offset % dtype.itemsize:
            raw = raw.clone()  # a view of another dtype must start at a multiple of its size
        return raw.view(dtype).reshape(shape)

    def is_view(self, offset: int, dtype: torch.dtype) -> bool:
        """Whether a tensor there shares the file's pages."""
        return self._map is not None and offset % dtype.itemsize == 0

    def release(self, offset: int, nbytes: int) -> None:
        """Give back the pages of a span that has been read; they come from the file again when needed."""
        if self._map is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        start = offset - offset % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_DONTNEED, start, min(nbytes + offset - start, self.size - start))

    def lazy(self, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> LazyTensor:
        """The tensor at `offset`, not read yet."""
        nbytes = prod(shape) * dtype.itemsize
        return LazyTensor(
            dtype,
            shape,
            lambda: self.tensor(offset, dtype, shape),
            lambda: self.release(offset, nbytes),
            self.is_view(offset, dtype),
        )


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        if sys.platform == "win32":
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        flags, protection = mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        return mmap.mmap(file.fileno(), 0, flags=flags, prot=protection)
