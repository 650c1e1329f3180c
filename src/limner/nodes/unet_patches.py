"""Changes of a UNet's pass: FreeU, tiled and merged tokens, smaller blocks, scaled attention."""

from __future__ import annotations

from functools import partial
from typing import Annotated, TypeVar

import torch

from limner.errors import BadInput
from limner.graph import Choice, Float, Int, node
from limner.nodes.kinds import CLIP, MODEL
from limner.sampling import unet_patches as patches
from limner.weights.adapters.plain import Difference

Scale = Annotated[float, Float(min=0.0, max=10.0, step=0.01)]
Percent = Annotated[float, Float(min=0.0, max=1.0, step=0.001)]
Method = Annotated[str, Choice(("bicubic", "nearest-exact", "bilinear", "area", "bislerp"))]

unet_node = partial(node, category="model_patches/unet")
attention_node = partial(
    node,
    category="_for_testing/attention_experiments",
    title="",
    python_module="comfy_extras.nodes_attention_multiply",
    style="v3",
    experimental=True,
)


@unet_node("FreeU", title="FreeU", python_module="comfy_extras.nodes_freelunch")
def free_u(model: MODEL, b1: Scale = 1.1, b2: Scale = 1.2, s1: Scale = 0.9, s2: Scale = 0.2) -> MODEL:
    """Backbone stronger (b) and skips smoother (s), at the deepest levels (1) and the one above (2)."""
    return _free_u(model, (b1, s1), (b2, s2), adaptive=False)


@unet_node("FreeU_V2", title="FreeU_V2", python_module="comfy_extras.nodes_freelunch")
def free_u_2(model: MODEL, b1: Scale = 1.3, b2: Scale = 1.4, s1: Scale = 0.9, s2: Scale = 0.2) -> MODEL:
    """FreeU whose backbone is stronger where it says much."""
    return _free_u(model, (b1, s1), (b2, s2), adaptive=True)


def _free_u(model: MODEL, deep: tuple[float, float], above: tuple[float, float], adaptive: bool) -> MODEL:
    channels = getattr(model.config, "model_channels", None)
    if channels is None:
        raise BadInput("FreeU needs a UNet.", why=f"A model of {model.family.title} is none.")
    changed = model.clone()
    changed.set_model_output_block_patch(patches.free_u({channels * 4: deep, channels * 2: above}, adaptive))
    return changed


@unet_node("HyperTile", title="", python_module="comfy_extras.nodes_hypertile", style="v3")
def hyper_tile(
    model: MODEL,
    tile_size: Annotated[int, Int(min=1, max=2048)] = 256,
    swap_size: Annotated[int, Int(min=1, max=128)] = 2,
    max_depth: Annotated[int, Int(min=0, max=10)] = 0,
    *,
    scale_depth: bool = False,
) -> MODEL:
    """Self-attention within tiles: faster for large pictures.

    model: the diffusion model.
    tile_size: in pixels.
    swap_size: between how many tilings is chosen.
    max_depth: how many levels deep it goes.
    scale_depth: tiles of deeper levels are larger.
    """
    tiles = patches.HyperTile(max(32, tile_size) // 8, swap_size, max_depth, scale_depth)
    changed = model.clone()
    changed.set_model_attn1_patch(tiles.split)
    changed.set_model_attn1_output_patch(tiles.join)
    return changed


@unet_node("TomePatchModel", title="", python_module="comfy_extras.nodes_tomesd", style="v3")
def token_merging(model: MODEL, ratio: Annotated[float, Float(min=0.0, max=1.0, step=0.01)] = 0.3) -> MODEL:
    """Tokens that are alike merged before self-attention: faster for large pictures.

    model: the diffusion model.
    ratio: the part of the tokens that is merged.
    """
    merging = patches.TokenMerging(ratio)
    changed = model.clone()
    changed.set_model_attn1_patch(merging.merge)
    changed.set_model_attn1_output_patch(merging.restore)
    return changed


@unet_node(
    "PatchModelAddDownscale",
    title="PatchModelAddDownscale (Kohya Deep Shrink)",
    python_module="comfy_extras.nodes_model_downscale",
    style="v3",
)
def deep_shrink(
    model: MODEL,
    block_number: Annotated[int, Int(min=1, max=32, step=1)] = 3,
    downscale_factor: Annotated[float, Float(min=0.1, max=9.0, step=0.001)] = 2.0,
    start_percent: Percent = 0.0,
    end_percent: Percent = 0.35,
    *,
    downscale_after_skip: bool = True,
    downscale_method: Method,
    upscale_method: Method,
) -> MODEL:
    """A block made smaller in the first steps, so that large pictures keep one composition.

    model: the diffusion model.
    block_number: which block on the way down.
    downscale_factor: how many times smaller.
    start_percent: from where of the sampling on.
    end_percent: up to where.
    downscale_after_skip: leave what is handed over to the way up in its size.
    downscale_method: how it is made smaller.
    upscale_method: how it is made larger again.
    """
    start, end = map(model.sampling.percent_to_sigma, (start_percent, end_percent))
    shrink = patches.DeepShrink(block_number, downscale_factor, start, end, downscale_method, upscale_method)
    changed = model.clone()
    if downscale_after_skip:
        changed.set_model_input_block_patch_after_skip(shrink.shrink)
    else:
        changed.set_model_input_block_patch(shrink.shrink)
    changed.set_model_output_block_patch(shrink.grow)
    return changed


@attention_node("UNetSelfAttentionMultiply")
def scale_self_attention(model: MODEL, q: Scale = 1.0, k: Scale = 1.0, v: Scale = 1.0, out: Scale = 1.0) -> MODEL:
    """The projections of all self-attention multiplied.

    model: the diffusion model.
    q: of what asks.
    k: of what is compared.
    v: of what is taken over.
    out: of the result.
    """
    return _scaled(model, "attn1.", UNET_PROJECTIONS, (q, k, v, out))


@attention_node("UNetCrossAttentionMultiply")
def scale_cross_attention(model: MODEL, q: Scale = 1.0, k: Scale = 1.0, v: Scale = 1.0, out: Scale = 1.0) -> MODEL:
    """The projections of all attention to the text multiplied.

    model: the diffusion model.
    q: of what asks.
    k: of what is compared.
    v: of what is taken over.
    out: of the result.
    """
    return _scaled(model, "attn2.", UNET_PROJECTIONS, (q, k, v, out))


@attention_node("CLIPAttentionMultiply")
def scale_clip_attention(clip: CLIP, q: Scale = 1.0, k: Scale = 1.0, v: Scale = 1.0, out: Scale = 1.0) -> CLIP:
    """The projections of all attention in a text encoder multiplied.

    clip: the text encoder.
    q: of what asks.
    k: of what is compared.
    v: of what is taken over.
    out: of the result.
    """
    return _scaled(clip, "self_attn.", ("q_proj", "k_proj", "v_proj", "out_proj"), (q, k, v, out))


UNET_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
UNCHANGED = Difference("unchanged", torch.zeros(0))
"""A patch of strength 0: the weight is only multiplied by the model's strength."""


Target = TypeVar("Target", MODEL, CLIP)


def _scaled(target: Target, attention: str, projections: tuple[str, ...], scales: tuple[float, ...]) -> Target:
    """Weights and biases whose names end in one of the attention's projections, multiplied."""
    changed = target.clone()
    for projection, scale in zip(projections, scales, strict=True):
        ends = tuple(f"{attention}{projection}.{part}" for part in ("weight", "bias"))
        keys = [changed.source.prefix + name for name in changed.source.tensors if name.endswith(ends)]
        changed.add_patches(dict.fromkeys(keys, UNCHANGED), 0.0, scale)
    return changed
