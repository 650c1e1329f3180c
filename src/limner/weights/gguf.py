"""GGUF checkpoints: the header, read with every bound checked before anything is allocated; tensors stay packed.

Layout, little-endian: "GGUF", version, number of tensors, number of metadata entries; the entries (name, type, value);
for each tensor its name, axes (the fastest first), type and offset; then, aligned, the data.
Source: the GGUF specification (github.com/ggml-org/ggml, docs/gguf.md).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.weights.lazy import LazyTensor, PackedTensor
from limner.weights.mapped import MappedFile
from limner.weights.quant import REGISTRY, Parts, QuantizedTensor, matrix_shape
from limner.weights.quant.gguf_blocks import BLOCKS

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_AXES = 4
MAX_ARRAY_DEPTH = 4
ALIGNMENT = "general.alignment"
SHAPES = ".orig_shape."
"""Part of the metadata names that give a tensor's own shape where it was reshaped to fit blocks."""
READS_AS = torch.bfloat16
"""What packed weights stand for: the dtype they were in, for nearly every file, and half the memory of float32."""

PLAIN = {
    0: torch.float32, 1: torch.float16, 24: torch.int8, 25: torch.int16, 26: torch.int32, 27: torch.int64,
    28: torch.float64, 30: torch.bfloat16,
}  # fmt: skip
PACKED = {
    2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K",
    20: "IQ4_NL", 23: "IQ4_XS",
}  # fmt: skip
OTHERS = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S",
    29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
DAMAGED = "The file is damaged or was not downloaded completely; download it again and compare its checksum."


@dataclass(frozen=True)
class Entry:
    """A tensor of the file. offset: of its first byte, from the start of the file."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        if self.kind in PLAIN:
            return prod(self.shape) * PLAIN[self.kind].itemsize
        block = BLOCKS[PACKED[self.kind]]
        return prod(self.shape) // block.weights * block.bytes


class _Cursor:
    """Reads on, and refuses to read beyond the end."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path, self.size = file, path, path.stat().st_size

    def take(self, count: int, what: str) -> bytes:
        left = self.size - self.file.tell()
        if count > left:
            raise _bad(self.path, f"It ends within {what}: {count:,} bytes are said to follow, {left:,} do.")
        return self.file.read(count)

    def number(self, code: str, what: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize(code), what))[0]

    def text(self, what: str) -> str:
        try:
            return self.take(self.number("Q", what), what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise _bad(self.path, f"{what} is not UTF-8.") from error

    def count(self, least: int, what: str) -> int:
        """A number of things that take at least so many bytes each."""
        found: int = self.number("Q", what)
        if found * least > self.size - self.file.tell():
            raise _bad(self.path, f"It claims {found:,} {what}, more than fit into it.")
        return found

    def value(self, kind: int, what: str, depth: int = 0) -> Any:
        if kind in NUMBERS:
            return self.number(NUMBERS[kind], what)
        if kind == STRING:
            return self.text(what)
        if kind != ARRAY or depth == MAX_ARRAY_DEPTH:
            raise _bad(self.path, f"{what} has the type {kind}, which is not known here.")
        inner = self.number("I", what)
        least = struct.calcsize("<" + NUMBERS[inner]) if inner in NUMBERS else 8
        count = self.count(least, f"values of {what}")
        if inner in NUMBERS:
            return list(struct.unpack(f"<{count}{NUMBERS[inner]}", self.take(count * least, what)))
        return [self.value(inner, what, depth + 1) for _ in range(count)]


def read_gguf(path: Path, use_mmap: bool = True) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """The tensors and the metadata of a GGUF file; metadata that is no text is told as JSON.

    Weights in blocks are read as QuantizedTensors in the file's own bytes. Raises BadInput when the header contradicts
    itself or the file, or holds a type that is not read; nothing larger than the header is allocated.
    """
    with path.open("rb") as file:
        cursor = _Cursor(file, path)
        metadata, entries = _header(cursor)
    _check(path, entries, cursor.size)
    opened = MappedFile(path, use_mmap)
    tensors = {entry.name: _lazy(opened, entry, _own_shape(path, entry, metadata)) for entry in entries}
    told = {name: one if isinstance(one, str) else json.dumps(one) for name, one in metadata.items()}
    return tensors, told


def _bad(path: Path, why: str, do: str = DAMAGED) -> BadInput:
    return BadInput(f"{path.name} is not a usable GGUF file.", why=why, do=do)


def _header(cursor: _Cursor) -> tuple[dict[str, Any], list[Entry]]:
    if cursor.take(4, "its first bytes") != MAGIC:
        raise _bad(cursor.path, "It does not begin with the letters GGUF.")
    version = cursor.number("I", "its version")
    if version not in VERSIONS:
        big = version.to_bytes(4, "big") in {known.to_bytes(4, "little") for known in VERSIONS}
        raise _bad(
            cursor.path,
            "It was written for a big-endian machine." if big else f"Its version is {version}; 2 and 3 are read.",
            "Get the file in version 3, little-endian.",
        )
    tensors = cursor.count(24, "tensors")
    metadata: dict[str, Any] = {}
    for _ in range(cursor.count(13, "metadata entries")):
        name = cursor.text("a metadata name")
        if name in metadata:
            raise _bad(cursor.path, f"Its metadata names {name!r} twice.")
        metadata[name] = cursor.value(cursor.number("I", f"metadata {name!r}"), f"metadata {name!r}")
    alignment = metadata.get(ALIGNMENT, 32)
    if type(alignment) is not int or alignment < 8 or alignment % 8 or alignment > 1 << 20:
        raise _bad(cursor.path, f"Its alignment is {alignment!r}.")
    infos = [_info(cursor) for _ in range(tensors)]
    begin = cursor.file.tell()
    begin += -begin % alignment
    for name, _, _, offset in infos:
        if offset % alignment:
            raise _bad(cursor.path, f"Tensor {name!r} begins at {offset}, which is no multiple of {alignment}.")
    return metadata, [Entry(name, shape, kind, begin + offset) for name, shape, kind, offset in infos]


def _info(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.text("a tensor's name")
    what = f"tensor {name!r}"
    axes = cursor.number("I", what)
    if axes > MAX_AXES:
        raise _bad(cursor.path, f"Tensor {name!r} has {axes} axes; at most {MAX_AXES} are read.")
    shape = tuple(reversed([cursor.number("Q", what) for _ in range(axes)]))
    kind, offset = cursor.number("I", what), cursor.number("Q", what)
    if kind not in PLAIN and kind not in PACKED:
        raise BadInput(
            f"{cursor.path.name} has tensors in a GGUF type that is not read here.",
            why=f"{name!r} is in {OTHERS.get(kind, f'type {kind}')}; read are {', '.join(PACKED.values())} and floats.",
            do="Get the file in one of those; Q4_K or Q5_K are nearest in size and better.",
        )
    return name, shape, kind, offset


def _check(path: Path, entries: list[Entry], size: int) -> None:
    names: set[str] = set()
    for entry in entries:
        if entry.name in names:
            raise _bad(path, f"Its header names {entry.name!r} twice.")
        names.add(entry.name)
        block = BLOCKS[PACKED[entry.kind]].weights if entry.kind in PACKED else 1
        if block > 1 and (not entry.shape or entry.shape[-1] % block):
            raise _bad(path, f"Tensor {entry.name!r} of {list(entry.shape)} does not fit blocks of {block}.")
        if entry.offset + entry.nbytes > size:
            raise _bad(path, f"Tensor {entry.name!r} needs bytes up to {entry.offset + entry.nbytes:,} of {size:,}.")
    in_order = sorted((one.offset, one.offset + one.nbytes, one.name) for one in entries if one.nbytes)
    for (_, end, name), (start, _, after) in pairwise(in_order):
        if start < end:
            raise _bad(path, f"Tensors {name!r} and {after!r} share bytes.")


def _own_shape(path: Path, entry: Entry, metadata: dict[str, Any]) -> tuple[int, ...]:
    """Its shape; what the metadata says of it first."""
    told = next(_shapes_of(entry.name, metadata), None)
    if told is None:
        return entry.shape
    if not isinstance(told, list) or not all(type(one) is int and one > 0 for one in told) or not told:
        raise _bad(path, f"The metadata gives {entry.name!r} the shape {told!r}.")
    if prod(told) != prod(entry.shape):
        raise _bad(path, f"The metadata gives {entry.name!r} the shape {told}; its data have {list(entry.shape)}.")
    return tuple(told)


def _shapes_of(name: str, metadata: dict[str, Any]) -> Iterator[Any]:
    return (value for key, value in metadata.items() if key.endswith(SHAPES + name))


def _lazy(opened: MappedFile, entry: Entry, shape: tuple[int, ...]) -> LazyTensor:
    """A plain tensor, or one that stays packed. One whose own shape cuts blocks is dequantized when it is read."""
    if entry.kind in PLAIN:
        return opened.lazy(entry.offset, PLAIN[entry.kind], shape)
    layout = REGISTRY.find(f"gguf_{PACKED[entry.kind].lower()}")
    rows = matrix_shape(entry.shape)[0]
    raw = opened.lazy(entry.offset, torch.uint8, (rows, entry.nbytes // max(rows, 1)))

    parts = Parts(torch.empty(raw.shape, dtype=raw.dtype, device="meta"), entry.shape, READS_AS)
    viewed = layout.viewed(parts, shape)

    def read() -> Tensor:
        given = replace(parts, numbers=raw.read())
        own = layout.viewed(given, shape)
        return layout.dequantize(given).reshape(shape) if own is None else QuantizedTensor.of(layout, own)

    if viewed is None:
        return LazyTensor(READS_AS, shape, read, raw.release)
    return PackedTensor(READS_AS, shape, read, raw.release, raw.is_view, like=QuantizedTensor.of(layout, viewed))
