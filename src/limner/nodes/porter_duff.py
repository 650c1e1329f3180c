"""Pictures with transparency laid over each other.  Porter and Duff 1984, and the blend modes of later standards."""

from __future__ import annotations

from functools import partial
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from limner.graph import Choice, Image, Mask, node
from limner.nodes.resize import resize, resize_image, resize_mask

compositing = partial(node, category="mask/compositing", python_module="comfy_extras.nodes_compositing", style="v3")


class Layer(NamedTuple):
    """A picture, and how transparent it is."""

    IMAGE: Image
    MASK: Mask


MODES = (
    *("ADD", "CLEAR", "DARKEN", "DST", "DST_ATOP", "DST_IN", "DST_OUT", "DST_OVER", "LIGHTEN", "MULTIPLY", "OVERLAY"),
    *("SCREEN", "SRC", "SRC_ATOP", "SRC_IN", "SRC_OUT", "SRC_OVER", "XOR"),
)
Mode = Annotated[str, Choice(MODES)]


@compositing("PorterDuffImageComposite", title="Porter-Duff Image Composite")
def porter_duff(
    source: Image, source_alpha: Mask, destination: Image, destination_alpha: Mask, mode: Mode = "DST"
) -> Layer:
    """One picture composited with another by a rule; both masks and the result's are 1 where transparent.

    source: the upper picture; it takes the size of the lower.
    source_alpha: where the upper picture is transparent.
    destination: the lower picture.
    destination_alpha: where the lower picture is transparent.
    mode: the rule.
    """
    height, width = destination.shape[1:3]
    count = min(len(one) for one in (source, source_alpha, destination, destination_alpha))
    channels = min(source.shape[-1], destination.shape[-1])
    upper = source[:count, ..., :channels].to(destination)
    if upper.shape[1:3] != (height, width):
        upper = resize_image(upper, width, height, "bicubic", "center")
    s, d = (_alpha(mask[:count], width, height).to(destination) for mask in (source_alpha, destination_alpha))
    alpha, colour = _composed(mode, upper * s, destination[:count, ..., :channels] * d, s, d)
    plain = torch.where(alpha > 1e-5, colour / alpha, 0.0).clamp(0, 1)
    return Layer(plain, 1 - alpha[..., 0])


def _composed(mode: str, upper: Tensor, lower: Tensor, s: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha and premultiplied colour of the result. upper, lower: premultiplied; s, d: their alphas."""
    all_of, none = torch.ones_like(s), torch.zeros_like(s)
    parts = {  # how much of the source is seen, and how much of the destination: table 1 of the paper
        "CLEAR": (none, none),
        "SRC": (all_of, none),
        "DST": (none, all_of),
        "SRC_OVER": (all_of, 1 - s),
        "DST_OVER": (1 - d, all_of),
        "SRC_IN": (d, none),
        "DST_IN": (none, s),
        "SRC_OUT": (1 - d, none),
        "DST_OUT": (none, 1 - s),
        "SRC_ATOP": (d, 1 - s),
        "DST_ATOP": (1 - d, s),
        "XOR": (1 - d, 1 - s),
        "ADD": (all_of, all_of),
    }
    if mode in parts:
        of_source, of_destination = parts[mode]
        alpha, colour = s * of_source + d * of_destination, upper * of_source + lower * of_destination
        return (alpha.clamp(0, 1), colour.clamp(0, 1)) if mode == "ADD" else (alpha, colour)
    return (s * d if mode == "MULTIPLY" else s + d - s * d), _blended(mode, upper, lower, s, d)


def _blended(mode: str, upper: Tensor, lower: Tensor, s: Tensor, d: Tensor) -> Tensor:
    if mode == "MULTIPLY":
        return upper * lower
    if mode == "SCREEN":
        return upper + lower - upper * lower
    if mode == "OVERLAY":
        return torch.where(d > 2 * lower, 2 * upper * lower, s * d - 2 * (d - upper) * (s - lower))
    chosen = torch.minimum(upper, lower) if mode == "DARKEN" else torch.maximum(upper, lower)
    return (1 - d) * upper + (1 - s) * lower + chosen


def _alpha(mask: Tensor, width: int, height: int) -> Tensor:
    """How opaque: (B, height, width, 1) of a mask (B, h, w) that is 1 where transparent."""
    if mask.shape[-2:] != (height, width):
        mask = resize(mask[:, None], width, height, "bicubic", "center")[:, 0]
    return 1 - mask[..., None]


@compositing("SplitImageWithAlpha", title="Split Image with Alpha")
def split_alpha(image: Image) -> Layer:
    """A picture without its alpha, and a mask that is 1 where it is transparent.

    image: the picture; without alpha the mask is 0.
    """
    alpha = image[..., 3] if image.shape[-1] > 3 else torch.ones_like(image[..., 0])
    return Layer(image[..., :3], 1 - alpha)


@compositing("JoinImageWithAlpha", title="Join Image with Alpha")
def join_alpha(image: Image, alpha: Mask) -> Image:
    """A picture with a mask as its alpha.

    image: the picture.
    alpha: 1 where it is transparent; resized to the picture.
    """
    count = min(len(image), len(alpha))
    opaque = 1 - resize_mask(alpha[:count], image.shape[2], image.shape[1])[:, 0, ..., None]
    return torch.cat((image[:count, ..., :3], opaque.to(image)), dim=-1)
