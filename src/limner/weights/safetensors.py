"""The safetensors header, read with every bound checked before anything is allocated.

Layout: 8 bytes little-endian length n; n bytes of JSON `{name: {dtype, shape, data_offsets}, "__metadata__": {}}`;
then the data.
Source: the safetensors format description (github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import torch

from limner.errors import BadInput

MAX_HEADER = 100 * 1024 * 1024

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
DTYPES |= {
    name: getattr(torch, attribute)
    for name, attribute in (("U16", "uint16"), ("U32", "uint32"), ("U64", "uint64"), ("F8_E8M0", "float8_e8m0fnu"))
    if hasattr(torch, attribute)
}

DAMAGED = "The file is damaged or was not downloaded completely; download it again and compare its checksum."


@dataclass(frozen=True)
class Span:
    """Where a tensor lies: its dtype, shape, and first byte counted from the start of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


def read_spans(path: Path) -> tuple[dict[str, Span], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises BadInput when the header contradicts itself or the file; nothing larger than the header is allocated.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise _bad(path, f"It is {size} bytes long; the shortest safetensors file has 10.")
        length = int.from_bytes(start, "little")
        if length > MAX_HEADER:
            raise _bad(path, f"Its header claims {length:,} bytes; at most {MAX_HEADER:,} are read.")
        if length > size - 8:
            raise _bad(path, f"Its header claims {length:,} bytes, but only {size - 8:,} follow.")
        text = file.read(length)
    entries = _parse(path, text)
    metadata = _metadata(path, entries.pop("__metadata__", {}))
    begin = 8 + length
    spans = {name: _span(path, name, entry, begin, size) for name, entry in entries.items()}
    _check_overlap(path, spans)
    return spans, metadata


def _bad(path: Path, why: str, do: str = DAMAGED) -> BadInput:
    return BadInput(f"{path.name} is not a usable safetensors file.", why=why, do=do)


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise _bad(path, f"Its header names {twice!r} twice.")
        return found

    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _bad(path, f"Its header is not JSON: {error}.") from error
    if not isinstance(entries, dict):
        raise _bad(path, f"Its header is a JSON {type(entries).__name__}, not an object.")
    return entries


def _metadata(path: Path, metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _bad(path, "Its __metadata__ is not an object of strings.")
    return metadata


def _span(path: Path, name: str, entry: Any, begin: int, size: int) -> Span:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise _bad(path, f"Tensor {name!r} lacks dtype, shape or data_offsets.")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise _bad(
            path,
            f"Tensor {name!r} has the dtype {entry['dtype']!r}, which is not known here.",
            "If the format is new, a newer Limner may read it.",
        )
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _naturals(shape):
        raise _bad(path, f"Tensor {name!r} has the shape {shape!r}.")
    if not _naturals(offsets) or len(offsets) != 2:
        raise _bad(path, f"Tensor {name!r} has the offsets {offsets!r}.")
    first, last = offsets
    if last < first or begin + last > size:
        raise _bad(path, f"Tensor {name!r} lies at bytes {first}…{last} of {size - begin} bytes of data.")
    if last - first != prod(shape) * dtype.itemsize:
        raise _bad(path, f"Tensor {name!r}: {last - first} bytes do not hold {entry['dtype']} {shape}.")
    return Span(dtype, tuple(shape), begin + first)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_overlap(path: Path, spans: dict[str, Span]) -> None:
    # Empty tensors cover no byte, so they cannot overlap.
    in_order = sorted(
        ((span.offset, span.offset + prod(span.shape) * span.dtype.itemsize, name) for name, span in spans.items())
    )
    for (_, end, name), (start, _, after) in pairwise(entry for entry in in_order if entry[0] < entry[1]):
        if start < end:
            raise _bad(path, f"Tensors {name!r} and {after!r} share bytes.")
