"""Latents: blank, resized, cut, joined, batched."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from limner.graph import Choice, Float, Int, Latent, Mask, node
from limner.nodes.composite import composite
from limner.nodes.resize import repeat_to_batch, resize

Side = Annotated[int, Int(min=16, max=16384, step=8)]
NewSide = Annotated[int, Int(min=0, max=16384, step=8)]
CropSide = Annotated[int, Int(min=64, max=16384, step=8)]
Place = Annotated[int, Int(min=0, max=16384, step=8)]
Method = Annotated[str, Choice(("nearest-exact", "bilinear", "area", "bicubic", "bislerp"))]
Crop = Annotated[str, Choice(("disabled", "center"))]
Rotation = Annotated[str, Choice(("none", "90 degrees", "180 degrees", "270 degrees"))]
Flip = Annotated[str, Choice(("x-axis: vertically", "y-axis: horizontally"))]
Axis = Annotated[str, Choice(("x", "y", "t"))]
SignedAxis = Annotated[str, Choice(("x", "-x", "y", "-y", "t", "-t"))]
CELL = 8
"""Pixels a latent cell, in all nodes that count in pixels, whatever the model."""
_AXES = {"x": -1, "y": -2, "t": -3}

extra_latent = partial(node, python_module="comfy_extras.nodes_latent", style="v3", title="")


@node("EmptyLatentImage", category="latent", title="Empty Latent Image")
def empty_latent(width: Side = 512, height: Side = 512, batch_size: Annotated[int, Int(min=1, max=4096)] = 1) -> Latent:
    """An all-zero latent batch for a sampler to start from.

    width: picture size in pixels; the latent is 8 times smaller.
    height: picture size in pixels; the latent is 8 times smaller.
    batch_size: how many pictures are sampled at once.
    """
    return {"samples": torch.zeros(batch_size, 4, height // CELL, width // CELL)}


@node("LatentUpscale", category="latent", title="Upscale Latent")
def upscale(samples: Latent, upscale_method: Method, width: NewSide = 512, height: NewSide = 512, *,
            crop: Crop) -> Latent:  # fmt: skip
    """A latent resized to a picture size in pixels; a side of 0 follows the other, both 0 change nothing."""
    if width == 0 and height == 0:
        return samples
    old_height, old_width = samples["samples"].shape[-2:]
    if width == 0:
        height = max(64, height)
        width = max(64, round(old_width * height / old_height))
    elif height == 0:
        width = max(64, width)
        height = max(64, round(old_height * width / old_width))
    else:
        width, height = max(64, width), max(64, height)
    return {**samples, "samples": resize(samples["samples"], width // CELL, height // CELL, upscale_method, crop)}


@node("LatentUpscaleBy", category="latent", title="Upscale Latent By")
def upscale_by(
    samples: Latent, upscale_method: Method, scale_by: Annotated[float, Float(min=0.01, max=8.0, step=0.01)] = 1.5
) -> Latent:
    """A latent resized by a factor."""
    height, width = (round(side * scale_by) for side in samples["samples"].shape[-2:])
    return {**samples, "samples": resize(samples["samples"], width, height, upscale_method)}


@node("LatentComposite", category="latent", title="Latent Composite")
def composite_latents(
    samples_to: Latent, samples_from: Latent, x: Place = 0, y: Place = 0, feather: Place = 0
) -> Latent:
    """One latent laid over another at a place in pixels, its inner edges fading over `feather` pixels."""
    under, x, y, feather = samples_to["samples"], x // CELL, y // CELL, feather // CELL
    height, width = under.shape[-2:]
    over = samples_from["samples"][..., : max(0, height - y), : max(0, width - x)]
    rows, columns = over.shape[-2:]
    weight = torch.ones_like(over)
    for step in range(feather):
        part = (step + 1) / feather
        if y != 0 and step < rows:
            weight[..., step, :] *= part
        if y + rows < height and step < rows:
            weight[..., rows - 1 - step, :] *= part
        if x != 0 and step < columns:
            weight[..., step] *= part
        if x + columns < width and step < columns:
            weight[..., columns - 1 - step] *= part
    result = under.clone()
    place = result[..., y : y + rows, x : x + columns]
    place.copy_(over * weight + place * (1 - weight))
    return {**samples_to, "samples": result}


@node(
    "LatentCompositeMasked",
    category="latent",
    title="LatentCompositeMasked",
    python_module="comfy_extras.nodes_mask",
)
def composite_masked(
    destination: Latent,
    source: Latent,
    x: Place = 0,
    y: Place = 0,
    resize_source: bool = False,
    *,
    mask: Mask | None = None,
) -> Latent:
    """One latent laid over another at a place in pixels, where the mask is 1."""
    laid = composite(destination["samples"], source["samples"], (x, y), mask, unit=CELL, resize_source=resize_source)
    return {**destination, "samples": laid}


@node("LatentFromBatch", category="latent/batch", title="Latent From Batch")
def from_batch(
    samples: Latent,
    batch_index: Annotated[int, Int(min=0, max=63)] = 0,
    length: Annotated[int, Int(min=1, max=64)] = 1,
) -> Latent:
    """Some latents of a batch; they keep the noise that they had in the whole batch."""
    batch = samples["samples"]
    start = min(len(batch) - 1, batch_index)
    length = min(len(batch) - start, length)
    chosen = {**samples, "samples": batch[start : start + length].clone()}
    mask = samples.get("noise_mask")
    if mask is not None and len(mask) > 1:
        chosen["noise_mask"] = repeat_to_batch(mask, len(batch))[start : start + length].clone()
    known = samples.get("batch_index")
    chosen["batch_index"] = list(range(start, start + length)) if known is None else known[start : start + length]
    return chosen


@node("RepeatLatentBatch", category="latent/batch", title="Repeat Latent Batch")
def repeat(samples: Latent, amount: Annotated[int, Int(min=1, max=64)] = 1) -> Latent:
    """The whole batch several times over: 1 2 1 2."""
    batch = samples["samples"]
    repeated = {**samples, "samples": batch.repeat(amount, *[1] * (batch.ndim - 1))}
    mask = samples.get("noise_mask")
    if mask is not None and len(mask) > 1:
        repeated["noise_mask"] = mask.repeat(amount, *[1] * (mask.ndim - 1))
    known = samples.get("batch_index")
    if known is not None:
        span = max(known) - min(known) + 1
        repeated["batch_index"] = [index + span * turn for turn in range(amount) for index in known]
    return repeated


@extra_latent("LatentBatch", category="latent/batch")
def batch(samples1: Latent, samples2: Latent) -> Latent:
    """Two batches as one; the second is resized to the first.

    samples1: what comes first.
    samples2: what comes last.
    """
    first, second = samples1["samples"], samples2["samples"]
    indices = [
        index
        for latent, tensor in ((samples1, first), (samples2, second))
        for index in latent.get("batch_index", range(len(tensor)))
    ]
    return {**samples1, "samples": torch.cat((first, _fitted(second, first, "bilinear"))), "batch_index": indices}


@extra_latent("LatentBatchSeedBehavior", category="latent/advanced")
def batch_seed_behavior(
    samples: Latent, seed_behavior: Annotated[str, Choice(("random", "fixed"))] = "fixed"
) -> Latent:
    """Whether all latents of a batch get the same noise.

    samples: the batch.
    seed_behavior: fixed gives all the noise of the first; random gives each its own.
    """
    changed = {key: value for key, value in samples.items() if key != "batch_index"}
    if seed_behavior == "fixed":
        first = (samples.get("batch_index") or [0])[0]
        changed["batch_index"] = [first] * len(samples["samples"])
    return changed


@extra_latent("LatentAdd", category="latent/advanced")
def add(samples1: Latent, samples2: Latent) -> Latent:
    """The sum of two latents.

    samples1: one, whose shape the result has.
    samples2: the other.
    """
    return {**samples1, "samples": samples1["samples"] + _like(samples2, samples1)}


@extra_latent("LatentSubtract", category="latent/advanced")
def subtract(samples1: Latent, samples2: Latent) -> Latent:
    """The difference of two latents.

    samples1: one, whose shape the result has.
    samples2: what is subtracted.
    """
    return {**samples1, "samples": samples1["samples"] - _like(samples2, samples1)}


@extra_latent("LatentMultiply", category="latent/advanced")
def multiply(samples: Latent, multiplier: Annotated[float, Float(min=-10.0, max=10.0, step=0.01)] = 1.0) -> Latent:
    """A latent times a number.

    samples: the latent.
    multiplier: the number.
    """
    return {**samples, "samples": samples["samples"] * multiplier}


@extra_latent("LatentInterpolate", category="latent/advanced")
def interpolate(
    samples1: Latent, samples2: Latent, ratio: Annotated[float, Float(min=0.0, max=1.0, step=0.01)] = 1.0
) -> Latent:
    """Between two latents: directions and lengths of the channel vectors mixed apart.

    samples1: one, whose shape the result has.
    samples2: the other.
    ratio: the weight of the first.
    """
    first, second = samples1["samples"], _like(samples2, samples1)
    length1, length2 = first.norm(dim=1, keepdim=True), second.norm(dim=1, keepdim=True)
    mixed = torch.nan_to_num(first / length1) * ratio + torch.nan_to_num(second / length2) * (1 - ratio)
    unit = torch.nan_to_num(mixed / mixed.norm(dim=1, keepdim=True))
    return {**samples1, "samples": unit * (length1 * ratio + length2 * (1 - ratio))}


@node("LatentBlend", category="_for_testing", title="Latent Blend")
def blend(
    samples1: Latent, samples2: Latent, blend_factor: Annotated[float, Float(min=0, max=1, step=0.01)] = 0.5
) -> Latent:
    """A mix of two latents; `blend_factor` is the weight of the first."""
    first, second = samples1["samples"], samples2["samples"]
    second = second if second.shape == first.shape else _fitted(second, first, "bicubic")
    return {**samples1, "samples": first * blend_factor + second * (1 - blend_factor)}


@extra_latent("LatentConcat", category="latent/advanced")
def concat(samples1: Latent, samples2: Latent, dim: SignedAxis) -> Latent:
    """Two latents side by side.

    samples1: one.
    samples2: the other.
    dim: along which axis; with a minus the second comes first.
    """
    first = samples1["samples"]
    pair = (first, repeat_to_batch(samples2["samples"], len(first)))
    ordered = pair[::-1] if dim.startswith("-") else pair
    return {**samples1, "samples": torch.cat(ordered, dim=_AXES[dim[-1]])}


@extra_latent("LatentCut", category="latent/advanced")
def cut(
    samples: Latent,
    dim: Axis,
    index: Annotated[int, Int(min=-16384, max=16384, step=1)] = 0,
    amount: Annotated[int, Int(min=1, max=16384, step=1)] = 1,
) -> Latent:
    """A slice of a latent, in cells.

    samples: the latent.
    dim: along which axis.
    index: where the slice starts; negative counts from the end.
    amount: how many cells it has.
    """
    axis, whole = _AXES[dim], samples["samples"]
    extent = whole.shape[axis]
    if index >= 0:
        index = min(index, extent - 1)
        amount = min(extent - index, amount)
    else:
        index = max(index, -extent)
        amount = min(-index, amount)
    return {**samples, "samples": whole.narrow(axis, index, amount)}


@node("LatentCrop", category="latent/transform", title="Crop Latent")
def crop(samples: Latent, width: CropSide = 512, height: CropSide = 512, x: Place = 0, y: Place = 0) -> Latent:
    """A part of a latent, in pixels; shorter where it reaches over the edge."""
    whole = samples["samples"]
    x = min(x // CELL, whole.shape[-1] - CELL)
    y = min(y // CELL, whole.shape[-2] - CELL)
    return {**samples, "samples": whole[..., y : y + height // CELL, x : x + width // CELL]}


@node("LatentRotate", category="latent/transform", title="Rotate Latent")
def rotate(samples: Latent, rotation: Rotation) -> Latent:
    """A latent turned clockwise."""
    return {**samples, "samples": torch.rot90(samples["samples"], k=quarter_turns(rotation), dims=(-1, -2))}


@node("LatentFlip", category="latent/transform", title="Flip Latent")
def flip(samples: Latent, flip_method: Flip) -> Latent:
    """A latent mirrored: the x-axis swaps top and bottom, the y-axis left and right."""
    axis = -2 if flip_method.startswith("x") else -1
    return {**samples, "samples": torch.flip(samples["samples"], dims=(axis,))}


def quarter_turns(rotation: str) -> int:
    """How many quarter turns a choice such as "90 degrees" means."""
    return 0 if rotation == "none" else int(rotation.split(maxsplit=1)[0]) // 90


def _fitted(x: Tensor, like: Tensor, method: str) -> Tensor:
    """x in the spatial size of `like`, cut about the centre to its shape."""
    return x if x.shape[1:] == like.shape[1:] else resize(x, like.shape[-1], like.shape[-2], method, "center")


def _like(latent: Latent, other: Latent) -> Tensor:
    """The samples of one latent in the size and batch of another's."""
    return repeat_to_batch(_fitted(latent["samples"], other["samples"], "bilinear"), len(other["samples"]))
