"""Conditioning: what to paint, where, when and how strongly."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.graph import Choice, Conditioning, Float, Int, Mask, Text, node
from limner.nodes.kinds import CLIP

_log = logging.getLogger(__name__)

CELL = 8
"""Pixels an area's cell, whatever the model."""
Strength = Annotated[float, Float(min=0.0, max=10.0, step=0.01)]
Fraction = Annotated[float, Float(min=0, max=1.0, step=0.01)]
Percent = Annotated[float, Float(min=0.0, max=1.0, step=0.001)]
AreaSide = Annotated[int, Int(min=64, max=16384, step=8)]
Place = Annotated[int, Int(min=0, max=16384, step=8)]


@node("CLIPTextEncode", category="conditioning", title="CLIP Text Encode (Prompt)")
def encode_text(text: Annotated[str, Text(multiline=True, dynamic_prompts=True)], clip: CLIP | None) -> Conditioning:
    """A text as conditioning.

    text: what the picture shows; (word:1.2) weighs a word, embedding:name takes a learned one.
    clip: the text encoder.
    """
    if clip is None:
        raise BadInput(
            "There is no text encoder to encode the text with.",
            why="The checkpoint that CLIP comes from holds none.",
            do="Load one with Load CLIP.",
        )
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


@node("CLIPSetLastLayer", category="conditioning", title="CLIP Set Last Layer")
def set_last_layer(clip: CLIP, stop_at_clip_layer: Annotated[int, Int(min=-24, max=-1, step=1)] = -1) -> CLIP:
    """The text encoder with its result taken from an earlier layer: -1 is the last, -2 the one before."""
    clip = clip.clone()
    clip.clip_layer(stop_at_clip_layer)
    return clip


@node("ConditioningCombine", category="conditioning", title="Conditioning (Combine)")
def combine(conditioning_1: Conditioning, conditioning_2: Conditioning) -> Conditioning:
    """Both: each is sampled, and the results are averaged."""
    return conditioning_1 + conditioning_2


@node("ConditioningAverage", category="conditioning", title="ConditioningAverage")
def average(
    conditioning_to: Conditioning,
    conditioning_from: Conditioning,
    conditioning_to_strength: Annotated[float, Float(min=0.0, max=1.0, step=0.01)] = 1.0,
) -> Conditioning:
    """A mix of two texts' meanings; the strength is the weight of `to`, whose other options are kept."""
    strength = conditioning_to_strength
    tensor, options = _only("ConditioningAverage", conditioning_from)
    pooled = options.get("pooled_output")
    result = []
    for to, to_options in conditioning_to:
        mixed_options = dict(to_options)
        to_pooled = to_options.get("pooled_output", pooled)
        if pooled is not None:
            mixed = pooled if to_pooled is None else to_pooled * strength + pooled * (1.0 - strength)
            mixed_options["pooled_output"] = mixed
        result.append([to * strength + _with_tokens(tensor, to.shape[1]) * (1.0 - strength), mixed_options])
    return result


def _with_tokens(tensor: Tensor, count: int) -> Tensor:
    """(B, count, width): cut, or padded with zeros at the end."""
    tensor = tensor[:, :count]
    missing = count - tensor.shape[1]
    return torch.cat((tensor, tensor.new_zeros(1, missing, tensor.shape[2])), dim=1) if missing else tensor


@node("ConditioningConcat", category="conditioning", title="Conditioning (Concat)")
def concat(conditioning_to: Conditioning, conditioning_from: Conditioning) -> Conditioning:
    """The tokens of both in a row; the options are those of `to`."""
    tensor, _ = _only("ConditioningConcat", conditioning_from)
    return [[torch.cat((to, tensor), dim=1), dict(options)] for to, options in conditioning_to]


@node("ConditioningSetArea", category="conditioning", title="Conditioning (Set Area)")
def set_area(
    conditioning: Conditioning,
    width: AreaSide = 64,
    height: AreaSide = 64,
    x: Place = 0,
    y: Place = 0,
    *,
    strength: Strength = 1.0,
) -> Conditioning:
    """The conditioning for a rectangle of the picture only, in pixels."""
    area = (height // CELL, width // CELL, y // CELL, x // CELL)
    return with_values(conditioning, {"area": area, "strength": strength, "set_area_to_bounds": False})


@node("ConditioningSetAreaPercentage", category="conditioning", title="Conditioning (Set Area with Percentage)")
def set_area_percentage(
    conditioning: Conditioning,
    width: Fraction = 1.0,
    height: Fraction = 1.0,
    x: Fraction = 0,
    y: Fraction = 0,
    *,
    strength: Strength = 1.0,
) -> Conditioning:
    """The conditioning for a rectangle of the picture only, in parts of its sides."""
    area = ("percentage", height, width, y, x)
    return with_values(conditioning, {"area": area, "strength": strength, "set_area_to_bounds": False})


@node("ConditioningSetAreaStrength", category="conditioning", title="ConditioningSetAreaStrength")
def set_area_strength(conditioning: Conditioning, strength: Strength = 1.0) -> Conditioning:
    """How much the conditioning counts among those combined with it."""
    return with_values(conditioning, {"strength": strength})


@node("ConditioningSetMask", category="conditioning", title="Conditioning (Set Mask)")
def set_mask(
    conditioning: Conditioning,
    mask: Mask,
    strength: Strength = 1.0,
    *,
    set_cond_area: Annotated[str, Choice(("default", "mask bounds"))],
) -> Conditioning:
    """The conditioning where the mask is 1; "mask bounds" samples only the rectangle around it."""
    values = {
        "mask": mask[None] if mask.ndim < 3 else mask,
        "mask_strength": strength,
        "set_area_to_bounds": set_cond_area != "default",
    }
    return with_values(conditioning, values)


@node("ConditioningSetTimestepRange", category="advanced/conditioning", title="ConditioningSetTimestepRange")
def set_timestep_range(conditioning: Conditioning, start: Percent = 0.0, end: Percent = 1.0) -> Conditioning:
    """The conditioning for a part of the sampling only: 0 is its beginning, 1 its end."""
    return with_values(conditioning, {"start_percent": start, "end_percent": end})


@node("ConditioningZeroOut", category="advanced/conditioning", title="ConditioningZeroOut")
def zero_out(conditioning: Conditioning) -> Conditioning:
    """The conditioning with all numbers 0: for models that were trained to take that for no text."""
    result = []
    for tensor, options in conditioning:
        zeroed = {
            key: torch.zeros_like(options[key])
            for key in ("pooled_output", "conditioning_lyrics")
            if options.get(key) is not None
        }
        result.append([torch.zeros_like(tensor), {**options, **zeroed}])
    return result


def with_values(conditioning: Conditioning, values: Mapping[str, Any]) -> Conditioning:
    """The same tensors with these options set on every entry; the given list is not changed."""
    return [[tensor, {**options, **values}] for tensor, options in conditioning]


def _only(kind: str, conditioning: Conditioning) -> tuple[Tensor, Mapping[str, Any]]:
    """The first entry; the others are said to be passed over."""
    if len(conditioning) > 1:
        _log.warning("%s: conditioning_from has %d entries; only the first is used.", kind, len(conditioning))
    tensor, options = conditioning[0]
    return tensor, options
