"""Two models as one."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from limner.graph import Float, node
from limner.models import merging
from limner.nodes.kinds import CLIP, MODEL

Ratio = Annotated[float, Float(min=0.0, max=1.0, step=0.01)]
Multiplier = Annotated[float, Float(min=-10.0, max=10.0, step=0.01)]

merging_node = partial(node, category="advanced/model_merging", python_module="comfy_extras.nodes_model_merging")


@merging_node("ModelMergeSimple", title="ModelMergeSimple")
def simple(model1: MODEL, model2: MODEL, ratio: Ratio = 1.0) -> MODEL:
    """A weighted mean; ratio is the weight of the first."""
    return merging.merge_models(model1, model2, lambda _name: ratio)


@merging_node("ModelMergeSubtract", title="ModelMergeSubtract")
def subtract(model1: MODEL, model2: MODEL, multiplier: Multiplier = 1.0) -> MODEL:
    """The difference of two models, multiplied."""
    return merging.combine(model1, model2, -multiplier, multiplier)


@merging_node("ModelMergeAdd", title="ModelMergeAdd")
def add(model1: MODEL, model2: MODEL) -> MODEL:
    """A model with a difference added."""
    return merging.combine(model1, model2, 1.0, 1.0)


@merging_node("ModelMergeBlocks", title="ModelMergeBlocks")
def blocks(model1: MODEL, model2: MODEL, input: Ratio = 1.0, middle: Ratio = 1.0, out: Ratio = 1.0) -> MODEL:  # noqa: A002
    """A weighted mean of UNets whose weights differ on the way down, in the middle and on the way up."""
    ratios = {"input": input, "middle": middle, "out": out}
    return merging.merge_models(model1, model2, merging.by_longest_prefix(ratios))


@merging_node("CLIPMergeSimple", title="CLIPMergeSimple")
def clip_simple(clip1: CLIP, clip2: CLIP, ratio: Ratio = 1.0) -> CLIP:
    """A weighted mean; ratio is the weight of the first."""
    return merging.combine(clip1, clip2, 1.0 - ratio, ratio)


@merging_node("CLIPMergeSubtract", title="CLIPMergeSubtract")
def clip_subtract(clip1: CLIP, clip2: CLIP, multiplier: Multiplier = 1.0) -> CLIP:
    """The difference of two text encoders, multiplied."""
    return merging.combine(clip1, clip2, -multiplier, multiplier)


@merging_node("CLIPMergeAdd", title="CLIPMergeAdd")
def clip_add(clip1: CLIP, clip2: CLIP) -> CLIP:
    """A text encoder with a difference added."""
    return merging.combine(clip1, clip2, 1.0, 1.0)
