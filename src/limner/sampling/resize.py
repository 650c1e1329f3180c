"""Resizing of pictures and latents as nodes offer it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def common_upscale(samples: Tensor, width: int, height: int, upscale_method: str, crop: str = "disabled") -> Tensor:
    """(B, C, …, H, W) to this size. crop "center" first cuts to the aspect ratio, else it is distorted.

    upscale_method: nearest-exact, bilinear, area, bicubic, bislerp or lanczos.
    """
    return upscale(samples, width, height, upscale_method, crop)


def upscale(samples: Tensor, width: int, height: int, upscale_method: str, crop: str = "disabled") -> Tensor:
    """What `common_upscale` does, unless a pack has put something else here."""
    lead = samples.shape[2:-2]
    if lead:
        frames = samples.movedim(1, -3).reshape(-1, samples.shape[1], *samples.shape[-2:])
        done = upscale(frames, width, height, upscale_method, crop)
        return done.reshape(samples.shape[0], *lead, -1, height, width).movedim(-3, 1)
    if crop == "center":
        samples = center_crop(samples, width / height)
    if upscale_method == "bislerp":
        return bislerp(samples, width, height)
    if upscale_method == "lanczos":
        return lanczos(samples, width, height)
    return F.interpolate(samples, size=(height, width), mode=upscale_method)


def center_crop(samples: Tensor, aspect: float) -> Tensor:
    """The middle of (B, C, H, W) with (about) this width / height, cut evenly on both sides."""
    height, width = samples.shape[-2:]
    left = top = 0
    if width / height > aspect:
        left = round((width - width * (aspect / (width / height))) / 2)
    elif width / height < aspect:
        top = round((height - height * ((width / height) / aspect)) / 2)
    return samples[..., top : height - top, left : width - left]


def lanczos(samples: Tensor, width: int, height: int) -> Tensor:
    """Pillow's antialiased Lanczos in 8 bits a channel; samples in 0..1."""
    resized = []
    for picture in samples:
        pixels = (255.0 * picture.movedim(0, -1).cpu().numpy()).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(pixels).resize((width, height), resample=Image.Resampling.LANCZOS)
        resized.append(torch.from_numpy(np.array(image).astype(np.float32) / 255.0).movedim(-1, 0))
    return torch.stack(resized).type_as(samples)


def bislerp(samples: Tensor, width: int, height: int) -> Tensor:
    """Bilinear, but directions of the channel vectors are turned and their lengths mixed: for latents."""
    turned = _slerp_last_axis(samples.float(), width)
    turned = _slerp_last_axis(turned.transpose(-1, -2), height).transpose(-1, -2)
    return turned.contiguous().type_as(samples)


def _slerp_last_axis(x: Tensor, length: int) -> Tensor:
    near, part = _positions(torch.arange(x.shape[-1], dtype=torch.float32), length)
    far, _ = _positions(torch.arange(1, x.shape[-1] + 1, dtype=torch.float32).clamp(max=x.shape[-1] - 1), length)
    a, b = x[..., near], x[..., far]
    part = torch.as_tensor(part, device=x.device)
    size_a, size_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    unit_a = torch.where(size_a == 0, 0.0, a / size_a)
    unit_b = torch.where(size_b == 0, 0.0, b / size_b)
    dot = (unit_a * unit_b).sum(1, keepdim=True)
    angle = dot.acos()
    turned = ((1 - part) * angle).sin() / angle.sin() * unit_a + (part * angle).sin() / angle.sin() * unit_b
    result = turned * (size_a * (1 - part) + size_b * part)
    result = torch.where(dot > 1 - 1e-5, a, result)
    return torch.where(dot < 1e-5 - 1, a * (1 - part) + b * part, result)


def _positions(ramp: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """(index, fraction) of each output cell on a ramp over the input."""
    resized = F.interpolate(ramp[None, None, None], size=(1, length), mode="bilinear")[0, 0, 0]
    return resized.long(), resized - resized.floor()
