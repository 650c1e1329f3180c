"""Resizing of pictures, masks and latents, as nodes offer it. (No nodes here.)"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image as Picture
from torch import Tensor
from torch.nn import functional as F

from limner.errors import BadInput


def resize(x: Tensor, width: int, height: int, method: str, crop: str = "disabled") -> Tensor:
    """x: (B, C, H, W), or with more axes between, such as frames → the same with (height, width).

    method: bislerp, lanczos, or a mode of torch's interpolate; nothing is clamped, so bicubic may overshoot.
    crop: "center" first cuts the longer side to the new shape, equally from both ends; else the shape is distorted.
    """
    if x.ndim > 4:
        frames = x.movedim(1, -3)
        resized = resize(frames.flatten(0, -4), width, height, method, crop)
        return resized.reshape(*frames.shape[:-2], height, width).movedim(-3, 1)
    if crop == "center":
        x = _cut_to_shape(x, width, height)
    if method == "bislerp":
        return bislerp(x, width, height)
    if method == "lanczos":
        return lanczos(x, width, height)
    return F.interpolate(x, size=(height, width), mode=method)


def resize_image(image: Tensor, width: int, height: int, method: str, crop: str = "disabled") -> Tensor:
    """`resize` of pictures (B, H, W, C)."""
    return resize(image.movedim(-1, 1), width, height, method, crop).movedim(1, -1)


def resize_mask(mask: Tensor, width: int, height: int) -> Tensor:
    """mask: (B, h, w), (h, w) or (B, 1, h, w) → (B, 1, height, width), bilinear."""
    return F.interpolate(mask.reshape(-1, 1, *mask.shape[-2:]), size=(height, width), mode="bilinear")


def _cut_to_shape(x: Tensor, width: int, height: int) -> Tensor:
    """The middle of x in the shape width : height."""
    old_height, old_width = x.shape[-2:]
    old, new = old_width / old_height, width / height
    left = top = 0
    if old > new:
        left = round((old_width - old_width * (new / old)) / 2)
    elif old < new:
        top = round((old_height - old_height * (old / new)) / 2)
    return x[..., top : old_height - top, left : old_width - left]


def lanczos(x: Tensor, width: int, height: int) -> Tensor:
    """Lanczos in 8 bits, antialiased. x: (B, 3 or 4, H, W) in 0..1; the result has 256 values a channel."""
    if x.shape[1] not in {3, 4}:
        raise BadInput(
            f"Lanczos cannot resize pictures of {x.shape[1]} channels.",
            why="It works on 8-bit colours, with or without alpha.",
            do="Choose another method.",
        )
    resized = []
    for picture in x:
        bytes_ = (255.0 * picture.movedim(0, -1)).clamp(0, 255).byte().cpu().numpy()
        small = Picture.fromarray(bytes_).resize((width, height), Picture.Resampling.LANCZOS)
        resized.append(torch.from_numpy(np.array(small).astype(np.float32) / 255.0).movedim(-1, 0))
    return torch.stack(resized).to(x)


def bislerp(x: Tensor, width: int, height: int) -> Tensor:
    """Spherical interpolation of the channel vectors, along the width first. x: (B, C, H, W)."""
    wide = _slerp_last(x.float(), width)
    return _slerp_last(wide.transpose(-1, -2), height).transpose(-1, -2).to(x.dtype)


def _slerp_last(x: Tensor, size: int) -> Tensor:
    """x: (B, C, other, n) → (B, C, other, size)."""
    n = x.shape[-1]
    ramp = torch.arange(n, dtype=torch.float32, device=x.device)
    place = _linear(ramp, size)
    first = place.long()
    second = _linear((ramp + 1).clamp(max=n - 1), size).long()
    return _slerp(x[..., first], x[..., second], place - place.floor())


def _linear(ramp: Tensor, size: int) -> Tensor:
    return F.interpolate(ramp[None, None], size=size, mode="linear")[0, 0]


def _slerp(a: Tensor, b: Tensor, ratio: Tensor) -> Tensor:
    """From a to b along the sphere, channels on axis 1; nearly equal vectors give a, opposite ones a straight line."""
    length_a, length_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    unit_a = torch.where(length_a == 0, 0.0, a / length_a)
    unit_b = torch.where(length_b == 0, 0.0, b / length_b)
    dot = (unit_a * unit_b).sum(1, keepdim=True)
    angle = dot.acos()  # NaN where rounding leaves -1..1; those places are overridden below
    part_a, part_b = torch.sin((1 - ratio) * angle) / angle.sin(), torch.sin(ratio * angle) / angle.sin()
    turned = (part_a * unit_a + part_b * unit_b) * (length_a * (1 - ratio) + length_b * ratio)
    turned = torch.where(dot > 1 - 1e-5, a, turned)
    return torch.where(dot < 1e-5 - 1, a * (1 - ratio) + b * ratio, turned)


def repeat_to_batch(x: Tensor, size: int) -> Tensor:
    """The first `size` items; x repeated as a whole where it has fewer."""
    if len(x) >= size:
        return x[:size]
    return x.repeat(-(-size // len(x)), *[1] * (x.ndim - 1))[:size]
