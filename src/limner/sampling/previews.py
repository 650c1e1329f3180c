"""Previews: a picture from a latent, cheap enough for every step."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from limner.sampling.latent import LatentFormat

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MAX_SIDE = 512
"""Pixels of a preview's longer side."""

Decoder = Callable[[Tensor], Tensor]
"""A small autoencoder's decoder: latent in model space (1, C, h, w) → pixels (1, 3, H, W) in -1..1."""
Previewer = Callable[[Tensor], "Picture"]


@cache
def _factors() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = json.loads(files(__package__).joinpath("latent_preview.json").read_text())
    return table


def make_previewer(
    latent_format: LatentFormat, method: str = "auto", decoder: Decoder | None = None
) -> Previewer | None:
    """A function from the predicted clean latent to a picture, or None when there is none to be had.

    method: none, auto or latent2rgb (a linear map of the channels), taesd (`decoder`, else latent2rgb).
    """
    if method == "none":
        return None
    if method == "taesd" and decoder is not None:
        return lambda latent: to_picture(decoder(_first(latent))[0])
    entry = _factors().get(latent_format.preview or "")
    if entry is None or latent_format.dims == 1:
        return None
    factors = torch.tensor(entry["factors"])
    bias = torch.tensor(entry["bias"] or [0.0, 0.0, 0.0])
    return lambda latent: to_picture(latent_to_rgb(latent, factors, bias, bool(entry["reshape"])))


def preview_factors(latent_format: LatentFormat) -> tuple[list[list[float]], list[float] | None, bool] | None:
    """Factors (channels, 3), bias and whether channels are cells, for the linear preview; None where there is none."""
    entry = _factors().get(latent_format.preview or "")
    if entry is None or latent_format.dims == 1:
        return None
    return entry["factors"], entry["bias"], bool(entry["reshape"])


def latent_to_rgb(latent: Tensor, factors: Tensor, bias: Tensor, reshape: bool = False) -> Tensor:
    """(3, h, w) in -1..1 from the first latent of (B, C, [T,] h, w): rgb = factorsᵀ · channels + bias."""
    first = _first(latent)[0].float().cpu()
    if reshape:  # each cell's channels hold two by two finer cells
        channels, height, width = first.shape
        first = first.reshape(channels // 4, 2, 2, height, width).permute(0, 3, 1, 4, 2)
        first = first.reshape(channels // 4, height * 2, width * 2)
    return torch.einsum("chw,cr->rhw", first, factors) + bias[:, None, None]


def _first(latent: Tensor) -> Tensor:
    """The first latent of the batch, and its first frame: (1, C, h, w)."""
    return latent[:1, :, 0] if latent.ndim == 5 else latent[:1]


def to_picture(pixels: Tensor) -> Picture:
    """(3, H, W) in -1..1 as a picture of at most 512 pixels a side."""
    bytes_ = ((pixels.float() + 1) / 2).clamp(0, 1).mul(255).movedim(0, -1).byte().cpu().numpy()
    picture = Image.fromarray(bytes_)
    if max(picture.size) > MAX_SIDE:
        picture.thumbnail((MAX_SIDE, MAX_SIDE))
    return picture
