"""Masks: made, joined, grown, feathered."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.errors import BadInput
from limner.graph import Bool, Choice, Float, Image, Int, Mask, node

Fraction = Annotated[float, Float(min=0.0, max=1.0, step=0.01)]
Side = Annotated[int, Int(min=1, max=16384, step=1)]
Place = Annotated[int, Int(min=0, max=16384, step=1)]
Channel = Annotated[str, Choice(("red", "green", "blue", "alpha"))]
Operation = Annotated[str, Choice(("multiply", "add", "subtract", "and", "or", "xor"))]

mask_node = partial(node, category="mask", python_module="comfy_extras.nodes_mask")


@mask_node("SolidMask", title="SolidMask")
def solid(value: Fraction = 1.0, width: Side = 512, height: Side = 512) -> Mask:
    """A mask of one value."""
    return torch.full((1, height, width), value, dtype=torch.float32)


@mask_node("InvertMask", title="InvertMask")
def invert(mask: Mask) -> Mask:
    """What was 1 is 0."""
    return 1.0 - mask


@mask_node("ThresholdMask", title="ThresholdMask")
def threshold(mask: Mask, value: Fraction = 0.5) -> Mask:
    """1 where the mask is above a value, else 0."""
    return (mask > value).float()


@mask_node("MaskToImage", title="Convert Mask to Image")
def to_image(mask: Mask) -> Image:
    """A mask as a grey picture."""
    return mask.reshape(-1, *mask.shape[-2:], 1).expand(-1, -1, -1, 3).clone()


@mask_node("ImageToMask", title="Convert Image to Mask")
def from_image(image: Image, channel: Channel) -> Mask:
    """One channel of a picture as a mask."""
    index = ("red", "green", "blue", "alpha").index(channel)
    if index >= image.shape[-1]:
        raise BadInput(
            f"The picture has no {channel} channel.",
            why=f"It has {image.shape[-1]} channels.",
            do="Choose another channel, or take the MASK output of Load Image.",
        )
    return image[..., index]


@mask_node("CropMask", title="CropMask")
def crop(mask: Mask, x: Place = 0, y: Place = 0, width: Side = 512, height: Side = 512) -> Mask:
    """A part of a mask; shorter where it reaches over the edge."""
    return mask.reshape(-1, *mask.shape[-2:])[:, y : y + height, x : x + width]


@mask_node("MaskComposite", title="MaskComposite")
def combine(destination: Mask, source: Mask, x: Place = 0, y: Place = 0, *, operation: Operation) -> Mask:
    """One mask combined with another laid over it at a place; and, or and xor round both first."""
    result = destination.reshape(-1, *destination.shape[-2:]).clone()
    over = source.reshape(-1, *source.shape[-2:])
    height, width = result.shape[-2:]
    if x >= width or y >= height:
        raise BadInput(
            f"The source lies outside of the destination: x {x}, y {y}.",
            why=f"The destination is {width}×{height}.",
            do="Choose a smaller offset.",
        )
    bottom, right = min(y + over.shape[-2], height), min(x + over.shape[-1], width)
    over, under = over[:, : bottom - y, : right - x], result[:, y:bottom, x:right]
    result[:, y:bottom, x:right] = _combined(under, over, operation)
    return result.clamp(0.0, 1.0)


def _combined(under: Tensor, over: Tensor, operation: str) -> Tensor:
    if operation == "multiply":
        return under * over
    if operation == "add":
        return under + over
    if operation == "subtract":
        return under - over
    a, b = under.round().bool(), over.round().bool()
    return {"and": a & b, "or": a | b, "xor": a ^ b}[operation].float()


@mask_node("FeatherMask", title="FeatherMask")
def feather(mask: Mask, left: Place = 0, top: Place = 0, right: Place = 0, bottom: Place = 0) -> Mask:
    """A mask that fades towards its edges over so many pixels.

    On the right and at the bottom the first factor falls on the opposite edge: the reference counts from -0, and
    pictures made with it depend on that.
    """
    result = mask.reshape(-1, *mask.shape[-2:]).clone()
    height, width = result.shape[-2:]
    left, right, top, bottom = min(left, width), min(right, width), min(top, height), min(bottom, height)
    for step in range(left):
        result[:, :, step] *= (step + 1.0) / left
    for step in range(right):
        result[:, :, -step] *= (step + 1.0) / right
    for step in range(top):
        result[:, step] *= (step + 1.0) / top
    for step in range(bottom):
        result[:, -step] *= (step + 1.0) / bottom
    return result


@mask_node("GrowMask", title="GrowMask")
def grow(
    mask: Mask,
    expand: Annotated[int, Int(min=-16384, max=16384, step=1)] = 0,
    tapered_corners: Annotated[bool, Bool()] = True,
) -> Mask:
    """A mask grown by so many pixels, or shrunk for a negative number; tapered corners grow as a diamond."""
    grown = mask.reshape(-1, 1, *mask.shape[-2:])
    sign = 1.0 if expand >= 0 else -1.0  # shrinking is growing what is not masked
    for _ in range(min(abs(expand), sum(mask.shape[-2:]))):
        grown = sign * _dilated(sign * grown, tapered_corners)
    return grown[:, 0]


def _dilated(x: Tensor, plus_shaped: bool) -> Tensor:
    """The largest of each cell and its neighbours. x: (B, 1, H, W)."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    if not plus_shaped:
        return F.max_pool2d(padded, 3, stride=1)
    across = F.max_pool2d(padded[..., 1:-1, :], (1, 3), stride=1)
    return torch.maximum(across, F.max_pool2d(padded[..., 1:-1], (3, 1), stride=1))


@mask_node("ImageColorToMask", title="ImageColorToMask")
def from_colour(
    image: Image, color: Annotated[int, Int(min=0, max=0xFFFFFF, step=1, extra={"display": "color"})] = 0
) -> Mask:
    """1 where a picture has exactly a colour, 0xRRGGBB."""
    wanted = torch.tensor([color >> 16 & 0xFF, color >> 8 & 0xFF, color & 0xFF], device=image.device)
    return ((image[..., :3].clamp(0, 1) * 255).round() == wanted).all(-1).float()
