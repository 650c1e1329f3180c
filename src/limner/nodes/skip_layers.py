"""Guidance by a transformer without some of its blocks."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from limner.graph import Float, Text, node
from limner.nodes.kinds import MODEL
from limner.sampling.skip_layers import SkippedLayers, layer_numbers, skip_layer_guidance, skipping_negative

Layers = Annotated[str, Text(multiline=False)]
Scale = Annotated[float, Float(min=0.0, max=10.0, step=0.1)]
Rescale = Annotated[float, Float(min=0.0, max=10.0, step=0.01)]
Percent = Annotated[float, Float(min=0.0, max=1.0, step=0.001)]

skip_node = partial(node, category="advanced/guidance", title="", style="v3", experimental=True)


def _layers(model: MODEL, double: str, single: str, start: float, end: float) -> SkippedLayers | None:
    """What is left out when; None where nothing is."""
    numbers = layer_numbers(double), layer_numbers(single)
    if not any(numbers):
        return None
    return SkippedLayers(*numbers, *map(model.sampling.percent_to_sigma, (start, end)))


def _guided(model: MODEL, layers: SkippedLayers | None, scale: float, rescale: float = 0.0) -> MODEL:
    if layers is None:
        return model
    changed = model.clone()
    changed.set_model_sampler_post_cfg_function(skip_layer_guidance(layers, scale, rescale))
    return changed


@skip_node("SkipLayerGuidanceSD3", python_module="comfy_extras.nodes_sd3")
def sd3(
    model: MODEL,
    layers: Layers = "7, 8, 9",
    scale: Scale = 3.0,
    start_percent: Percent = 0.01,
    end_percent: Percent = 0.15,
) -> MODEL:
    """Away from what the model predicts without some of its blocks.

    model: the diffusion model.
    layers: numbers of the blocks.
    scale: how strongly.
    start_percent, end_percent: in which part of the run.
    """
    return _guided(model, _layers(model, layers, "", start_percent, end_percent), scale)


@skip_node("SkipLayerGuidanceDiT", python_module="comfy_extras.nodes_slg")
def any_transformer(
    model: MODEL,
    double_layers: Layers = "7, 8, 9",
    single_layers: Layers = "7, 8, 9",
    scale: Scale = 3.0,
    start_percent: Percent = 0.01,
    end_percent: Percent = 0.15,
    rescaling_scale: Rescale = 0.0,
) -> MODEL:
    """Away from what the model predicts without some of its blocks.

    model: the diffusion model.
    double_layers: numbers of its blocks with two streams.
    single_layers: numbers of its blocks with one.
    scale: how strongly.
    start_percent, end_percent: in which part of the run.
    rescaling_scale: how much of the change of contrast that it brings is taken back.
    """
    layers = _layers(model, double_layers, single_layers, start_percent, end_percent)
    return _guided(model, layers, scale, rescaling_scale)


@skip_node("SkipLayerGuidanceDiTSimple", python_module="comfy_extras.nodes_slg")
def negative(
    model: MODEL,
    double_layers: Layers = "7, 8, 9",
    single_layers: Layers = "7, 8, 9",
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
) -> MODEL:
    """The negative predicted by the model without some of its blocks, which costs no pass of its own.

    model: the diffusion model.
    double_layers: numbers of its blocks with two streams.
    single_layers: numbers of its blocks with one.
    start_percent, end_percent: in which part of the run.
    """
    layers = _layers(model, double_layers, single_layers, start_percent, end_percent)
    if layers is None:
        return model
    changed = model.clone()
    changed.set_model_sampler_calc_cond_batch_function(skipping_negative(layers))
    return changed
