"""What is quantized and how: a layout for most layers, patterns of those that are meant, and layers with their own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput, LimnerError, NotFound
from limner.weights.header import CheckpointHeader
from limner.weights.lazy import LazyTensor, PackedTensor
from limner.weights.quant.form import WEIGHT
from limner.weights.quant.layout import Layout
from limner.weights.quant.registry import REGISTRY
from limner.weights.quant.stored import has_name

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LEAST = 16
"""Inputs or outputs of a layer below which it is left as it is: there the latent goes in and out, and it is small."""
TABLES = ("*embed*", "*shared*", "*relative_attention_bias*")
"""What tables of vectors are called: they are not multiplied, and small steps in them matter."""
KEEP = "keep"
"""What a recipe calls no quantization at all."""
OPTIONS = {"group_size": "group", "full_precision_matrix_mult": "full_precision", "activations": "activations"}
"""Names of options in recipes and files, and in layouts."""


@dataclass(frozen=True)
class Choice:
    """What becomes of a tensor. layout: None keeps it. why: in words, where it is kept, or the layout is not the usual.

    inputs: what is known of the layer's inputs, `input_scale` and `pre_quant_scale`, as files keep it.
    """

    name: str
    layout: Layout | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    inputs: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """layout: a name. include: patterns of layers, in place of the usual choice. exclude: of layers to keep.

    layers: pattern → a layout's name, "keep", or an object with `format` and options; the first that fits decides,
    whatever else is said. Patterns (`*`, `?`, `[…]`) are of names with or without what the network's begin with.
    """

    layout: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    layers: Mapping[str, Any] = field(default_factory=dict)

    def choices(self, header: CheckpointHeader, prefix: str) -> list[Choice]:
        """For each tensor of a file. prefix: what the names of the network begin with that is usually meant.

        Raises NotFound for an unknown layout, BadInput for a pattern that fits nothing.
        """
        usual, stacks = REGISTRY.find(self.layout), stacked(header)
        if not usual.writes:
            raise BadInput(f"{usual.name} is only read.", do="Choose a layout that is written, such as nf4.")
        rules = [(pattern, *_rule(pattern, value)) for pattern, value in self.layers.items()]
        unused = {*self.include, *self.exclude, *self.layers}
        found = []
        for name, entry in header.tensors.items():
            fitting = [one for one in unused | {*self.include, *self.exclude, *self.layers} if _fits(one, name, prefix)]
            unused -= set(fitting)
            own = next(((layout, options) for pattern, layout, options in rules if pattern in fitting), None)
            why = _impossible(name, entry)
            if not why and own is None:
                why = self._unwanted(name, entry, prefix, stacks, fitting)
            layout, options = own or (usual, {})
            if not why and layout is None:
                why = "the recipe keeps it"
            why = why or _misfit(entry, layout, options)
            found.append(Choice(name, why=why) if why else Choice(name, layout, options))
        if unused:
            raise BadInput(
                f"No tensor of {header.path.name} fits {min(unused)!r}.",
                do="`limner inspect --strip` lists the names.",
            )
        return found

    def _unwanted(self, name: str, entry: LazyTensor, prefix: str, stacks: frozenset[str], fitting: list[str]) -> str:
        if any(one in self.exclude for one in fitting):
            return "excluded"
        if self.include:
            return "" if any(one in self.include for one in fitting) else "not included"
        if not name.startswith(prefix):
            return "outside the diffusion model"
        if any(_fits(one, name, prefix) for one in TABLES):
            return "an embedding"
        if min(entry.shape[:2]) < LEAST:
            return "a first or last layer"
        return "" if name in stacks else "in no stack of blocks"


def read_recipe(path: Path, layout: str = "", include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> Recipe:
    """A recipe of a JSON file, {"format", "include", "exclude", "layers"}; what is given beside it comes first.

    Raises NotFound without the file, BadInput where it is no recipe.
    """
    if not path.is_file():
        raise NotFound(f"There is no recipe {path}.", do="Name a JSON file.")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path.name} is no recipe.", why=f"It is not JSON: {error}.") from error
    if not isinstance(told, dict) or told.keys() - {"format", "include", "exclude", "layers"}:
        raise BadInput(
            f"{path.name} is no recipe.",
            why="It is an object of format, include, exclude and layers, and of nothing else.",
        )
    lists = [told.get(name, []) for name in ("include", "exclude")]
    if not all(isinstance(one, list) and all(isinstance(item, str) for item in one) for one in lists):
        raise BadInput(f"{path.name}: include and exclude are lists of patterns.")
    layers, own = told.get("layers", {}), told.get("format", "")
    if not isinstance(layers, dict) or not isinstance(own, str):
        raise BadInput(f"{path.name}: format is a name, and layers an object of patterns.")
    return Recipe(layout or own, (*include, *lists[0]), (*exclude, *lists[1]), layers)


def write_recipe(path: Path, recipe: Recipe) -> None:
    """A JSON file that `read_recipe` reads. Raises LimnerError where it cannot be written."""
    told = {"format": recipe.layout, "include": recipe.include, "exclude": recipe.exclude, "layers": recipe.layers}
    try:
        path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise LimnerError(f"The recipe {path} cannot be written.", why=f"{error.strerror or error}.") from error


def stacked(header: CheckpointHeader) -> frozenset[str]:
    """Weights in one of several numbered blocks: `blocks.0.…`, `blocks.1.…`. Layers counted by themselves are none."""
    numbers: dict[str, set[str]] = {}
    for name in header:
        for before, number, _ in _numbered(name):
            numbers.setdefault(before, set()).add(number)
    return frozenset(
        name
        for name in header
        if any(len(numbers[before]) > 1 and "." in after for before, _, after in _numbered(name))
    )


def _numbered(name: str) -> Iterator[tuple[str, str, str]]:
    """(what is before, number, what is after) for each number in a name."""
    parts = name.split(".")
    for place, part in enumerate(parts):
        if part.isdecimal():
            yield ".".join(parts[:place]), part, ".".join(parts[place + 1 :])


def _fits(pattern: str, name: str, prefix: str) -> bool:
    names = {name, name.removeprefix(prefix)}
    return any(fnmatchcase(one, pattern) or fnmatchcase(one.removesuffix(WEIGHT), pattern) for one in names)


def _rule(pattern: str, value: object) -> tuple[Layout | None, dict[str, Any]]:
    said = {"format": value} if isinstance(value, str) else value
    if not isinstance(said, dict) or not isinstance(said.get("format"), str) or said.keys() - {"format", *OPTIONS}:
        raise BadInput(
            f"The recipe says {value!r} of {pattern!r}.",
            why=f"Known are a format's name, {KEEP!r}, or an object with format and {', '.join(OPTIONS)}.",
        )
    if said["format"] == KEEP:
        return None, {}
    return REGISTRY.find(said["format"]), {OPTIONS[name]: one for name, one in said.items() if name in OPTIONS}


def _impossible(name: str, entry: LazyTensor) -> str:
    if entry.dtype not in FLOATS and not isinstance(entry, PackedTensor):
        return "no floats of 16 bits or more"
    if len(entry.shape) < 2 or prod(entry.shape) == 0:
        return "no matrix"
    return "" if has_name(name) else "not the weight of a layer"


def _misfit(entry: LazyTensor, layout: Layout | None, options: Mapping[str, Any]) -> str:
    if layout is None:
        return ""
    if layout.matrices_only and len(entry.shape) != 2:
        return f"{layout.name} holds matrices only"
    try:
        layout.expected(entry.shape, **options)
    except BadInput as error:
        return error.what.rstrip(".")
    return ""
