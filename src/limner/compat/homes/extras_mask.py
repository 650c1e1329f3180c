"""Functions of comfy_extras that are no nodes: pasting, matching latents, kernels, and video masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.sampling.condition_values import repeat_to_batch
from limner.sampling.resize import common_upscale

MAX_RESOLUTION = 16384


def composite(
    destination: Tensor,
    source: Tensor,
    x: int,
    y: int,
    mask: Tensor | None = None,
    multiplier: int = 8,
    resize_source: bool = False,
) -> Tensor:
    """`source` pasted into `destination` (B, C, H, W), in place, at x, y in pixels; multiplier: pixels a cell."""
    source = source.type_as(destination)
    height, width = destination.shape[-2:]
    if resize_source:
        source = F.interpolate(source, size=(height, width), mode="bilinear")
    source = repeat_to_batch(source, destination.shape[0])
    x = max(-source.shape[3] * multiplier, min(x, width * multiplier))
    y = max(-source.shape[2] * multiplier, min(y, height * multiplier))
    left, top = x // multiplier, y // multiplier
    if mask is None:
        shown = torch.ones_like(source)
    else:
        plain = mask.type_as(destination).reshape(-1, 1, *mask.shape[-2:])
        shown = F.interpolate(plain, size=source.shape[2:], mode="bilinear")
        shown = repeat_to_batch(shown, source.shape[0])
    wide = width - left + min(0, x)
    high = height - top + min(0, y)
    skip_x, skip_y = max(0, -left), max(0, -top)
    left, top = max(0, left), max(0, top)
    wide = min(wide if skip_x == 0 else width, source.shape[3] - skip_x, width - left)
    high = min(high if skip_y == 0 else height, source.shape[2] - skip_y, height - top)
    if wide <= 0 or high <= 0:
        return destination
    part = shown[:, :, skip_y : skip_y + high, skip_x : skip_x + wide]
    pasted = source[:, :, skip_y : skip_y + high, skip_x : skip_x + wide]
    place = destination[..., top : top + high, left : left + wide]
    place.copy_(part * pasted + (1 - part) * place)
    return destination


def reshape_latent_to(target_shape: Sequence[int], latent: Tensor, repeat_batch: bool = True) -> Tensor:
    """A latent at another size, cut about the centre, and repeated to another batch."""
    if tuple(latent.shape[1:]) != tuple(target_shape[1:]):
        latent = common_upscale(latent, target_shape[-1], target_shape[-2], "bilinear", "center")
    return repeat_to_batch(latent, target_shape[0]) if repeat_batch else latent


def gaussian_kernel(kernel_size: int, sigma: float, device: Any = None) -> Tensor:
    """A bell over -1..1 each way, of sum 1."""
    line = torch.linspace(-1, 1, kernel_size, device=device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    bell = torch.exp(-(x * x + y * y) / (2.0 * sigma * sigma))
    return bell / bell.sum()


def get_noise_mask(latent: dict[str, Any]) -> Tensor:
    """A video latent's mask, or ones of its frames."""
    mask: Tensor | None = latent.get("noise_mask")
    samples: Tensor = latent["samples"]
    if mask is None:
        return torch.ones((samples.shape[0], 1, samples.shape[2], 1, 1), dtype=torch.float32)
    return mask.clone()
