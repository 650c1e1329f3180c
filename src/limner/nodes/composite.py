"""Laying one picture or latent over another through a mask. (No nodes here.)"""

from __future__ import annotations

import torch
from torch import Tensor

from limner.nodes.resize import repeat_to_batch, resize, resize_mask


def composite(
    under: Tensor,
    over: Tensor,
    place: tuple[int, int],
    mask: Tensor | None,
    *,
    unit: int,
    resize_source: bool,
) -> Tensor:
    """`over` laid over `under` where the mask is 1, both (B, C, H, W); the batch is that of `under`.

    place: x and y of its corner in pixels; what sticks out is cut. unit: pixels a cell. mask: (B, h, w) over the whole
    of `over`, resized to it; None is 1 everywhere. resize_source: bring `over` to the size of `under` first.
    """
    height, width = under.shape[-2:]
    if resize_source:
        over = resize(over, width, height, "bilinear")
    over = repeat_to_batch(over, len(under)).to(under)
    rows, columns = over.shape[-2:]
    left = max(-columns * unit, min(place[0], width * unit)) // unit
    top = max(-rows * unit, min(place[1], height * unit)) // unit
    if mask is None:
        weight = torch.ones_like(over[:, :1])
    else:
        weight = repeat_to_batch(resize_mask(mask, columns, rows), len(under)).to(under)
    visible = (
        ...,
        slice(max(0, -top), max(0, min(rows, height - top))),
        slice(max(0, -left), max(0, min(columns, width - left))),
    )
    over, weight = over[visible], weight[visible]
    result = under.clone()
    top, left = max(0, top), max(0, left)
    part = result[..., top : top + over.shape[-2], left : left + over.shape[-1]]
    part.copy_(weight * over + (1 - weight) * part)
    return result


def with_alpha(image: Tensor) -> Tensor:
    """A picture (B, H, W, C) with one more channel, of 1."""
    return torch.cat((image, torch.ones_like(image[..., :1])), dim=-1)


def same_channels(destination: Tensor, source: Tensor) -> Tensor:
    """The source with as many channels as the destination: cut, or with an opaque alpha. Both (B, H, W, C)."""
    source = source[..., : destination.shape[-1]]
    return with_alpha(source) if source.shape[-1] < destination.shape[-1] else source
