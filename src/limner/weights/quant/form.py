"""A form: one way in which files say that weights are quantized, and what it finds in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch

from limner.errors import BadInput, NotFound
from limner.weights.header import CheckpointHeader
from limner.weights.lazy import LazyTensor
from limner.weights.quant.layout import Layout
from limner.weights.quant.operations import ROWWISE
from limner.weights.quant.registry import REGISTRY

WEIGHT = ".weight"
BESIDE = ("weight_scale", "weight_scale_2", "pre_quant_scale", "input_scale")
"""Tensors beside `<layer>.weight`, by what the guide calls them."""
MOST_PER_NUMBER = 16
"""Weights that a stored number stands for at most; a shape that says more is a lie."""
BROKEN = "The file is incomplete, damaged or of another form; get a complete one."


@dataclass(frozen=True)
class Stored:
    """A quantized weight as a file has it.

    name: of the weight. tensors: by the guide's names, "weight" and those of `BESIDE`. options: what the file says of
    it that is no tensor. shape: of the weight, where that of its numbers does not tell it. dtype: that it stands for.
    """

    name: str
    layout: Layout
    tensors: Mapping[str, LazyTensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Found:
    """What a form finds. consumed: names that are no tensors of the network. metadata: what is spent of the file's."""

    weights: tuple[Stored, ...] = ()
    consumed: frozenset[str] = frozenset()
    metadata: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Form:
    """find: a file's header → what it has in this form; weights that others `said` something of are not asked again.

    said: the file says so; without that, names and dtypes alone do.
    """

    find: Callable[[CheckpointHeader], Found]
    said: bool = True


def bad(header: CheckpointHeader, what: str, why: str, do: str = BROKEN) -> BadInput:
    """The error of a file that contradicts itself."""
    return BadInput(f"{header.path.name}: {what}", why=why, do=do)


def parsed(header: CheckpointHeader, text: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object; its names are there once each. Raises BadInput that says what it is."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise bad(header, f"{what} names {twice!r} twice.", "Which of the two is meant cannot be told.")
        return found

    try:
        found = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise bad(header, f"{what} is not JSON.", f"{error}.") from error
    if not isinstance(found, dict):
        raise bad(header, f"{what} is no JSON object.", f"It is a {type(found).__name__}.")
    return found


def beside(header: CheckpointHeader, layer: str) -> dict[str, LazyTensor]:
    """The weight of a layer and what the guide names beside it, as far as it is there. Raises NotFound without one."""
    if layer + WEIGHT not in header:
        raise NotFound(
            f"{header.path.name}: there is no weight of the layer {layer!r}.",
            why="The file says of it that it is quantized.",
            do=BROKEN,
        )
    names = {"weight": layer + WEIGHT, **{name: f"{layer}.{name}" for name in BESIDE}}
    return {name: header.tensors[key] for name, key in names.items() if key in header}


def taken(layer: str, *more: str) -> set[str]:
    """Names beside a layer's weight that are no tensors of the network."""
    return {f"{layer}.{name}" for name in (*BESIDE, *more)}


def layout_of(header: CheckpointHeader, layer: str, name: object) -> Layout:
    """The layout of a format's name. Raises BadInput, NotFound with the nearest names."""
    if not isinstance(name, str):
        raise bad(header, f"{layer} has an unknown quantization format.", f"It is {name!r}, which is no name.")
    try:
        return REGISTRY.find(name)
    except NotFound as error:
        raise NotFound(
            f"{header.path.name}: {layer} has the unknown quantization format {name!r}.", error.why, error.do
        ) from None


def by_rows(layout: Layout, weight: LazyTensor, scale: LazyTensor | None) -> Layout:
    """The layout, or the same with a scale for each row where the file has so many."""
    rows = weight.shape[0] if weight.shape else 0
    if layout.name in ROWWISE and scale is not None and prod(scale.shape) == rows > 1:
        return REGISTRY.find(ROWWISE[layout.name])
    return layout


def as_said(header: CheckpointHeader, layer: str, settings: object) -> Stored:
    """A layer of which a file says this: the name of a format, or an object with `format` and what belongs to it."""
    said: Mapping[str, Any] = {"format": settings} if isinstance(settings, str) else settings  # type: ignore[assignment]
    if not isinstance(said, dict):
        raise bad(header, f"What is said of {layer} is no format.", f"It is {settings!r}.")
    if "format" not in said:
        raise bad(header, f"{layer} has an unknown quantization format.", "What is said of it names no `format`.")
    tensors = beside(header, layer)
    layout = by_rows(layout_of(header, layer, said["format"]), tensors["weight"], tensors.get("weight_scale"))
    shape = _shape(header, layer, layout, tensors["weight"], said.get("orig_shape"))
    return Stored(layer + WEIGHT, layout, tensors, _options(header, layer, layout, said), shape)


def _options(header: CheckpointHeader, layer: str, layout: Layout, said: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    group = said.get("group_size")
    if group is not None:
        own = type(group) is int and group == layout.block
        free = not own and "group" in layout.expected((1, max(layout.block, 1))).plain
        if not own and not (free and type(group) is int and 0 < group <= 1 << 20):
            raise bad(
                header,
                f"{layer} is said to have blocks of {group!r} weights.",
                f"{layout.name} has {f'blocks of {layout.block}' if layout.block else 'no blocks'}.",
            )
        if free:
            found["group"] = group
    full = said.get("full_precision_matrix_mult", False)
    if type(full) is not bool:
        raise bad(header, f"{layer}: full_precision_matrix_mult is {full!r}.", "It is true or false.")
    if full:
        found["full_precision"] = True
    activations = said.get("activations")
    if activations not in (None, "none", "dynamic"):
        raise bad(header, f"{layer}: activations are said to be {activations!r}.", 'Known are "none" and "dynamic".')
    if activations is not None:
        found["activations"] = activations
    return found


def _shape(
    header: CheckpointHeader, layer: str, layout: Layout, numbers: LazyTensor, told: object
) -> tuple[int, ...] | None:
    """The shape that the file tells, checked; None where that of the numbers is it."""
    if told is None:
        if not layout.elementwise and len(numbers.shape) != 2:
            raise bad(
                header,
                f"{layer} has the shape {list(numbers.shape)}, which {layout.name} does not hold.",
                "It is no matrix, and the file does not tell the shape that it had.",
                "Keep such layers in a float dtype, or in a layout with a number for each weight.",
            )
        return None
    fits = isinstance(told, list) and bool(told) and all(type(one) is int and one > 0 for one in told)
    shape = tuple(told) if fits and isinstance(told, list) else ()
    small = prod(shape) <= prod(numbers.shape) * MOST_PER_NUMBER
    if not shape or not small or (layout.elementwise and shape != numbers.shape):
        raise bad(header, f"{layer} is said to have the shape {told!r}.", f"Its numbers have {list(numbers.shape)}.")
    return shape
