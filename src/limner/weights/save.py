"""Writing safetensors files: all tensors at once, or rows of each as they come."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from limner.errors import BadInput, LimnerError
from limner.weights.quant.stored import as_stored
from limner.weights.safetensors import DTYPES

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Writer:
    """A safetensors file that is written piece by piece; it appears only when all of it is there.

    tensors: names → tensors of which only dtype and shape are asked. Raises BadInput for a dtype that the format has no
    name for, LimnerError where the file cannot be written.
    """

    def __init__(
        self, path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
    ) -> None:
        self.path = Path(path)
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._file: BinaryIO | None = None
        # The largest numbers first: that keeps every tensor aligned.
        self.order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
        entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
        self._next: dict[str, int] = {}
        self._end: dict[str, int] = {}
        end = 0
        for name in self.order:
            tensor = tensors[name]
            if tensor.dtype not in _NAMES:
                raise BadInput(f"Tensor {name!r} has the dtype {tensor.dtype}, which safetensors cannot hold.")
            begin, end = end, end + tensor.numel() * tensor.dtype.itemsize
            self._next[name], self._end[name] = begin, end
            entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
        self._header = text + b" " * (-len(text) % 8)
        self._begin = 8 + len(self._header)
        self.nbytes = self._begin + end

    def __enter__(self) -> Writer:
        try:
            self._file = self._partial.open("wb")
            self._file.write(len(self._header).to_bytes(8, "little") + self._header)
        except OSError as error:
            self._give_up()
            raise self._unwritten(error) from error
        return self

    def append(self, name: str, rows: Tensor) -> None:
        """The next rows of a tensor, or all of it."""
        if rows.numel() == 0:
            return
        data = _bytes(rows)
        begin = self._next[name]
        if self._file is None or begin + len(data) > self._end[name]:
            raise ValueError(f"{name} has no place for {len(data)} bytes more")
        try:
            if self._file.tell() != self._begin + begin:
                self._file.seek(self._begin + begin)
            self._file.write(data)
        except OSError as error:
            raise self._unwritten(error) from error
        self._next[name] = begin + len(data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                missing = [name for name in self.order if self._next[name] != self._end[name]]
                if missing:
                    raise ValueError(f"{missing[0]} was not written to its end")
                self._finish()
        finally:
            self._give_up()

    def _finish(self) -> None:
        if self._file is None:
            return
        try:
            self._file.close()
            self._partial.replace(self.path)
        except OSError as error:
            raise self._unwritten(error) from error

    def _give_up(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._partial.unlink(missing_ok=True)

    def _unwritten(self, error: OSError) -> LimnerError:
        return LimnerError(f"{self.path} cannot be written.", why=f"{error.strerror or error}.")


def save(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors and metadata as a safetensors file, one tensor at a time; the file appears only when complete.

    Quantized tensors are written packed, with their scales and with what loaders know them by again. Raises BadInput
    for a dtype that the format has no name for.
    """
    plain, said = as_stored(tensors, metadata or {})
    with Writer(path, plain, said) as writer:
        for name in writer.order:
            writer.append(name, plain[name])


def _bytes(tensor: Tensor) -> Any:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data
