"""Between a file's tensors and a network's layers: what was measured at work becomes choices of how to keep each."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from limner.models.detect import Match
from limner.models.model import Model
from limner.quantize.inputs import Inputs, Observer, known_of
from limner.quantize.samples import Progress, silent
from limner.quantize.search import Found, Option, Trial, decibels, search
from limner.quantize.watch import Pass
from limner.weights import CheckpointHeader
from limner.weights.lazy import LazyTensor
from limner.weights.quant.form import WEIGHT
from limner.weights.quant.recipe import OPTIONS, Choice, Recipe
from limner.weights.quant.tensor import QuantizedTensor, as_floats


@dataclass(frozen=True)
class Layers:
    """The tensors of a file, and which layer of the diffusion model's network each weight belongs to.

    header: as it is quantized. prefix: what the diffusion model's names begin with. of: weight's name → layer's name.
    """

    header: CheckpointHeader
    prefix: str
    of: Mapping[str, str]

    @classmethod
    def in_file(cls, header: CheckpointHeader, match: Match) -> Layers:
        """Weights that the network takes as they are; those it puts together from several have no layer here."""
        names = {id(entry): name for name, entry in header.tensors.items()}
        found = {
            names[id(entry)]: name.removesuffix(WEIGHT)
            for name, entry in match.diffusion.tensors.items()
            if name.endswith(WEIGHT) and id(entry) in names
        }
        return cls(header, match.prefix, found)

    @classmethod
    def of_model(cls, model: Model) -> Layers:
        """Of the network itself."""
        tensors, source = model.source.tensors, model.source
        names = {name: name.removesuffix(WEIGHT) for name in tensors if name.endswith(WEIGHT)}
        return cls(CheckpointHeader(tensors, {}, Path(source.name), source.identity), "", names)


def with_inputs(
    choices: Sequence[Choice], layers: Layers, inputs: Mapping[str, Inputs], observer: Observer
) -> Iterator[Choice]:
    """The choices with what is known of each layer's inputs. inputs: by layer."""
    for choice in choices:
        seen = inputs.get(layers.of.get(choice.name, ""))
        if choice.layout is None or seen is None:
            yield choice
        else:
            entry = layers.header.tensors[choice.name]
            yield replace(choice, inputs=known_of(seen, choice.layout, entry, observer))


def unreached(choices: Sequence[Choice], layers: Layers, inputs: Mapping[str, Inputs]) -> list[str]:
    """Weights in layouts with fixed scales of inputs whose layer was given nothing."""
    reached = {layer for layer, seen in inputs.items() if seen.reached}
    fixed = [one.name for one in choices if one.layout is not None and one.layout.largest_input is not None]
    return [name for name in fixed if layers.of.get(name) not in reached]


def options_of(
    choices: Sequence[Choice], ladder: Sequence[Sequence[Choice]], layers: Layers
) -> dict[str, list[Option]]:
    """How each layer may be kept: as chosen, as each of the ladder has it, or as it is in the file."""
    found: dict[str, list[Option]] = {}
    for place, choice in enumerate(choices):
        layer = layers.of.get(choice.name)
        if choice.layout is None or layer is None:
            continue
        entry = layers.header.tensors[choice.name]
        ways = [choice, *(others[place] for others in ladder)]
        found[layer] = [_option(way, entry) for way in ways if way.layout is not None]
        found[layer].append(Option(Choice(choice.name, why="the search keeps it"), entry.nbytes))
    return found


def _option(choice: Choice, entry: LazyTensor) -> Option:
    if choice.layout is None:
        return Option(choice, entry.nbytes)
    known = sum(one.nbytes for name, one in choice.inputs.items() if name == "input_scale")
    return Option(choice, choice.layout.nbytes(entry.shape, **choice.options) + known)


def searched(
    model: Model,
    passes: Sequence[Pass],
    choices: Sequence[Choice],
    options: Mapping[str, Sequence[Option]],
    layers: Layers,
    *,
    least_snr: float | None = None,
    most_bytes: int | None = None,
    progress: Progress = silent,
) -> tuple[list[Choice], Found]:
    """The choices as a search changes them, with the reason for each that it changed, and all that it found."""
    with model.loaded() as network:
        trial = Trial(network, passes, lambda layer: model.place(model.source.patched(layer + WEIGHT)))
        found = search(trial, options, least_snr=least_snr, most_bytes=most_bytes, progress=progress)
    changed: list[Choice] = []
    for choice in choices:
        layer = layers.of.get(choice.name, "")
        option = found.chosen.get(layer)
        if option is None or option.choice is choice:
            changed.append(choice)
        else:
            alone = f"alone in {_name(choice)} it puts the output at {decibels(found.alone[layer]):.1f} dB"
            changed.append(replace(option.choice, why=f"by search: {alone}"))
    return changed, found


def _name(choice: Choice) -> str:
    return "" if choice.layout is None else choice.layout.name


def as_recipe(choices: Sequence[Choice], layout: str) -> Recipe:
    """The choices by name, so that they can be made again without a search. layout: of most layers."""
    layers = {glob.escape(one.name): _said(one) for one in choices if one.layout is not None}
    return Recipe(layout, tuple(layers), layers=layers)


def _said(choice: Choice) -> Any:
    options = {name: choice.options[called] for name, called in OPTIONS.items() if called in choice.options}
    return {"format": _name(choice), **options} if options else _name(choice)


@torch.inference_mode(False)  # weights outlive the node that makes them
def quantized_model(model: Model, choices: Sequence[Choice], progress: Progress = silent) -> Model:
    """The model with its network's weights quantized in memory; patches stay what they are."""
    tensors = dict(model.source.tensors)
    wanted = [one for one in choices if one.layout is not None]
    for done, choice in enumerate(wanted, 1):
        entry = tensors[choice.name]
        weight = as_floats(entry.read())
        made = QuantizedTensor.from_float(weight, choice.layout or "", **choice.options, **choice.inputs)
        tensors[choice.name] = LazyTensor.of(made.to(entry.dtype))
        entry.release()
        progress(done, len(wanted))
    changed = model.clone()
    changed.source = replace(model.source, tensors=tensors, identity=f"{model.source.identity}/{uuid4().hex}")
    return changed
