"""A checkpoint quantized: read, rounded and written a few rows at a time, so that no size of file is too large."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, log10, prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.weights.header import CheckpointHeader
from limner.weights.lazy import LazyTensor, PackedTensor
from limner.weights.quant.form import WEIGHT
from limner.weights.quant.layout import OF_INPUTS, Layout
from limner.weights.quant.parts import Parts, matrix_shape
from limner.weights.quant.recipe import Choice, Recipe
from limner.weights.quant.stored import named, said, settings
from limner.weights.quant.tensor import QuantizedTensor
from limner.weights.save import Writer

AT_ONCE = 1 << 23
"""Weights that are rounded at once: 32 MB of float32, and some copies of that."""


@dataclass(frozen=True)
class Outcome:
    """What became of a tensor. layout: "" where it was kept, and why. before, after: bytes in the files.

    sqnr: signal to quantization noise, dB; None where nothing was rounded.
    """

    name: str
    shape: tuple[int, ...]
    layout: str
    before: int
    after: int
    sqnr: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Plan:
    """What is to be written. layers: of quantized weights, their parts without numbers. kept: other tensors."""

    choices: tuple[Choice, ...]
    layers: Mapping[str, tuple[Layout, Parts]]
    tensors: Mapping[str, Tensor]
    texts: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def plan(header: CheckpointHeader, recipe: Recipe, prefix: str) -> Plan:
    """What a recipe makes of a file. prefix: of the diffusion model's names. Nothing but the header is looked at.

    Raises BadInput and NotFound as `Recipe.choices` does, and where nothing would be quantized.
    """
    return planned(header, recipe.choices(header, prefix))


def planned(header: CheckpointHeader, choices: Sequence[Choice]) -> Plan:
    """What choices, one for each tensor, make of a file. Raises BadInput where nothing would be quantized."""
    if not any(choice.layout for choice in choices):
        raise BadInput(
            f"Nothing of {header.path.name} would be quantized.",
            why="; ".join(sorted({choice.why for choice in choices})[:4]) + ".",
            do="Say with --include which layers are meant.",
        )
    layers: dict[str, tuple[Layout, Parts]] = {}
    tensors: dict[str, Tensor] = {}
    for choice in choices:
        entry = header.tensors[choice.name]
        found = _parts(choice, entry)
        if found is None:
            tensors[choice.name] = torch.empty(entry.shape, dtype=entry.dtype, device="meta")
            continue
        layers[choice.name] = found
        tensors |= named(*found, choice.name)
    told = said({name.removesuffix(WEIGHT): settings(*one) for name, one in layers.items()}, header.metadata)
    return Plan(tuple(choices), layers, tensors | dict(told.tensors), told.tensors, told.metadata)


def _parts(choice: Choice, entry: LazyTensor) -> tuple[Layout, Parts] | None:
    """The layout and the parts, without numbers, that a tensor is written in; None where it is written as it is."""
    if choice.layout is not None:
        parts = choice.layout.expected(entry.shape, **choice.options)
        extra = {name: one for name, one in choice.options.items() if name not in parts.plain}
        known = {name: torch.empty_like(one, device="meta") for name, one in choice.inputs.items()}
        return choice.layout, replace(parts, plain={**parts.plain, **extra}, tensors={**parts.tensors, **known})
    if not isinstance(entry, PackedTensor):
        return None
    weight = entry.read()
    if not isinstance(weight, QuantizedTensor):
        return None
    return weight.packing, weight.parts.map(lambda one: torch.empty_like(one, device="meta"))


def convert(header: CheckpointHeader, target: Path, made: Plan) -> Iterator[Outcome]:
    """Write a file as planned, and say of each tensor what became of it. The file is there when all have been said.

    Raises BadInput for weights that are not finite, LimnerError where the file cannot be written.
    """
    with Writer(target, made.tensors, made.metadata) as writer:
        for name, text in made.texts.items():
            writer.append(name, text)
        for choice in made.choices:
            entry = header.tensors[choice.name]
            try:
                yield _converted(writer, choice, entry, made)
            except BadInput as error:
                raise BadInput(f"{choice.name}: {error.what}", error.why, error.do) from error
            entry.release()


def _converted(writer: Writer, choice: Choice, entry: LazyTensor, made: Plan) -> Outcome:
    if choice.layout is not None:
        noise = _quantize(writer, choice, choice.layout, entry)
        after = made.layers[choice.name][1].nbytes
        return Outcome(choice.name, entry.shape, choice.layout.name, entry.nbytes, after, noise, choice.why)
    if choice.name in made.layers:
        weight = entry.read()
        if isinstance(weight, QuantizedTensor):
            for name, part in named(weight.packing, weight.parts, choice.name).items():
                writer.append(name, part)
            return Outcome(choice.name, entry.shape, weight.packing.name, entry.nbytes, weight.nbytes, None, choice.why)
    for rows in _rows(entry):
        writer.append(choice.name, rows)
    return Outcome(choice.name, entry.shape, "", entry.nbytes, entry.nbytes, None, choice.why)


def _rows(entry: LazyTensor) -> Iterator[Tensor]:
    """A tensor a few rows at a time; the file's pages are given back after each."""
    if not entry.shape or prod(entry.shape) <= AT_ONCE:
        yield entry.read()
        return
    tensor = entry.read()
    step = max(1, AT_ONCE // max(prod(entry.shape[1:]), 1))
    for start in range(0, entry.shape[0], step):
        yield tensor[start : start + step]
        entry.release()


def column_amax(entry: LazyTensor) -> Tensor:
    """(columns,), the largest weight of each column, float32."""
    found: Tensor | None = None
    for rows in _floats(entry):
        amax = rows.reshape(matrix_shape(tuple(rows.shape))).abs().amax(0)
        found = amax if found is None else found.maximum(amax)
    if found is None:
        raise BadInput("A tensor without numbers has no columns.")
    return found


def _floats(entry: LazyTensor) -> Iterator[Tensor]:
    for rows in _rows(entry):
        yield (rows.dequantize() if isinstance(rows, QuantizedTensor) else rows).float()


def _quantize(writer: Writer, choice: Choice, layout: Layout, entry: LazyTensor) -> float:
    """Write a weight in a layout; returns its SQNR."""
    options: dict[str, Any] = {**choice.options, **choice.inputs}
    if prod(entry.shape) > AT_ONCE:
        options |= _scale_of_all(layout, entry, choice.options)
    signal = noise = 0.0
    first = True
    for rows in _floats(entry):
        parts = layout.quantize(rows, **options)
        exact = rows.reshape(parts.shape)
        signal += float(exact.square().sum(dtype=torch.float64))
        noise += float((layout.dequantize(parts) - exact).square_().sum(dtype=torch.float64))
        for name, part in named(layout, parts, choice.name).items():
            if first or not _once(layout, parts, name):
                writer.append(name, part)
        first = False
    return 10 * log10(signal / noise) if noise and signal else inf


def _once(layout: Layout, parts: Parts, stored: str) -> bool:
    """Whether a part belongs to the whole weight, not to its rows."""
    leaf = stored.rpartition(".")[2]
    if leaf in OF_INPUTS:
        return True
    mine = next((name for name, called in layout.stored.items() if called == leaf), None)
    return mine is not None and parts.tensors[mine].ndim == 0


def _scale_of_all(layout: Layout, entry: LazyTensor, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """The one scale of a weight whose rows are rounded apart from each other; nothing where each has its own."""
    expected = layout.expected((2, max(layout.block, 1)), **options)
    single = next((name for name, one in expected.tensors.items() if one.ndim == 0 and name not in OF_INPUTS), None)
    if single is None:
        return {}
    largest = max((rows.abs().amax() for rows in _floats(entry)), key=float)
    return {"scale": layout.quantize(largest.reshape(1, 1), **options).tensors[single]}
