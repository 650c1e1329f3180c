"""Quantized checkpoints read: which weights a file says are quantized, told as what they stand for and kept packed."""

from __future__ import annotations

import pkgutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib import import_module

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.weights.header import CheckpointHeader
from limner.weights.lazy import LazyTensor, PackedTensor
from limner.weights.quant import forms as folder
from limner.weights.quant.form import BROKEN, WEIGHT, Form, Found, Stored, bad
from limner.weights.quant.parts import Parts
from limner.weights.quant.tensor import QuantizedTensor

SIXTEEN_BITS = (torch.float16, torch.bfloat16)
STANDS_FOR = torch.bfloat16
"""What weights stand for where nothing tells: it has their range, and more precision than they have left."""
CHECKED = 1 << 20
"""Bytes of a scale up to which it is looked at when the file is opened; larger ones when they are read."""


@cache
def known_forms() -> tuple[Form, ...]:
    """Every form: the modules of the folder, those in which files say something first."""
    found: list[Form] = [
        import_module(f"{folder.__name__}.{module.name}").FORM for module in pkgutil.iter_modules(folder.__path__)
    ]
    return tuple(sorted(found, key=lambda form: not form.said))


def quantized(header: CheckpointHeader) -> CheckpointHeader:
    """The same file with each quantized weight as one tensor, which is read as a QuantizedTensor.

    It has the shape of what it stands for; scales, marks and what the metadata says of them are left out. A file
    without any is returned as it is. Raises BadInput, before a weight is read, for what is unknown, missing, of a wrong
    shape or no scale.
    """
    weights: dict[str, Stored] = {}
    consumed: set[str] = set()
    metadata: set[str] = set()
    for form in known_forms():
        found = form.find(header if form.said else _without(header, consumed))
        _take(header, found, weights)
        consumed |= found.consumed
        metadata |= found.metadata
    if not weights and not consumed.intersection(header) and not metadata:
        return header
    plain = Counter(
        entry.dtype
        for name, entry in header.tensors.items()
        if name not in consumed and name not in weights and entry.dtype in SIXTEEN_BITS
    )
    usual = plain.most_common(1)[0][0] if plain else STANDS_FOR
    packed = {name: _entry(header, stored, usual) for name, stored in weights.items()}
    tensors = {name: packed.get(name, entry) for name, entry in header.tensors.items() if name not in consumed}
    tensors |= {name: entry for name, entry in packed.items() if name not in tensors}
    kept = {name: text for name, text in header.metadata.items() if name not in metadata}
    return replace(header, tensors=tensors, metadata=kept)


def _without(header: CheckpointHeader, names: set[str]) -> CheckpointHeader:
    return header.rename(lambda name: None if name in names else name) if names else header


def _take(header: CheckpointHeader, found: Found, weights: dict[str, Stored]) -> None:
    """Add what a form found. Two that say the same of a weight are one; two that do not are a contradiction."""
    for stored in found.weights:
        other = weights.setdefault(stored.name, stored)
        if (other.layout, dict(other.options), other.shape) != (stored.layout, dict(stored.options), stored.shape):
            raise bad(
                header,
                f"The file says two things of {stored.name}.",
                f"It would be {other.layout.name} {dict(other.options)} and {stored.layout.name} "
                f"{dict(stored.options)}.",
            )


def _entry(header: CheckpointHeader, stored: Stored, usual: torch.dtype) -> LazyTensor:
    """A quantized weight, checked as far as that is possible without reading it."""
    dtype = stored.dtype or _dtype(header, stored.name, usual)
    where = f"{header.path.name}: {stored.name.removesuffix(WEIGHT)}"

    def made(tensors: dict[str, Tensor]) -> Parts:
        try:
            return stored.layout.from_file(tensors, dtype, stored.shape, where, **stored.options)
        except BadInput as error:
            what = error.what if error.what.startswith(where) else f"{where}: {error.what}"
            raise BadInput(
                what, error.why or f"It is said to be in {stored.layout.name}.", error.do or BROKEN
            ) from error

    def read() -> Tensor:
        return QuantizedTensor.of(stored.layout, made({name: one.read() for name, one in stored.tensors.items()}))

    def read_once() -> Tensor:  # views of a file take no memory, and need not be looked at again
        if not kept:
            with torch.inference_mode(False):
                kept.append(read())
        return kept[0]

    kept: list[Tensor] = []

    def release() -> None:
        for one in stored.tensors.values():
            one.release()

    seen = made({name: _seen(one, name) for name, one in stored.tensors.items()})
    like = QuantizedTensor.of(stored.layout, seen.map(lambda one: one.to("meta")))
    views = all(one.is_view for one in stored.tensors.values()) and seen.numbers.is_contiguous()
    return PackedTensor(dtype, seen.shape, read_once if views else read, release, views, like=like)


def _seen(entry: LazyTensor, name: str) -> Tensor:
    """A tensor as it is checked: scales with their numbers unless they are many, all else by shape."""
    if name == "weight" or entry.nbytes > CHECKED:
        return torch.empty(entry.shape, dtype=entry.dtype, device="meta")
    return entry.read()


def _dtype(header: CheckpointHeader, name: str, usual: torch.dtype) -> torch.dtype:
    """That of the bias where it has 16 bits, else the one that most of the file's tensors of 16 bits have."""
    bias = header.tensors.get(name.removesuffix(WEIGHT) + ".bias")
    return bias.dtype if bias is not None and bias.dtype in SIXTEEN_BITS else usual


def packed_entries(header: CheckpointHeader) -> Iterator[tuple[str, PackedTensor]]:
    """The weights of a file that stay packed."""
    for name, entry in header.tensors.items():
        if isinstance(entry, PackedTensor):
            yield name, entry
