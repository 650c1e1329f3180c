"""Functions of latents: what LATENT_OPERATION sockets carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Operation = Callable[..., Tensor]
"""`operation(latent=…)`: a latent (B, C, …) as another of the same shape."""


def reinhard(multiplier: float) -> Operation:
    """Tone mapping of the channel vectors' lengths, whose top is at five standard deviations.  Reinhard et al. 2002."""

    def operation(latent: Tensor, **_: Any) -> Tensor:
        length = latent.norm(dim=1, keepdim=True) + 1e-10
        axes = tuple(range(1, latent.ndim))
        top = (length.std(axes, keepdim=True) * 5 + length.mean(axes, keepdim=True)) * multiplier
        part = length / top
        mapped: Tensor = latent / length * (part / (part + 1) * top)
        return mapped

    return operation


def sharpen(radius: int, sigma: float, alpha: float) -> Operation:
    """The directions of the channel vectors sharpened, their lengths kept. sigma: relative to the radius."""

    def operation(latent: Tensor, **_: Any) -> Tensor:
        length = latent.norm(dim=1, keepdim=True) + 1e-6
        kernel = torch.as_tensor(sharpening_kernel(radius, sigma, alpha), device=latent.device).to(latent.dtype)
        channels = latent.shape[1]
        padded = F.pad(latent / length, [radius] * 4, mode="reflect")
        unit = F.conv2d(padded, kernel.expand(channels, 1, -1, -1), groups=channels)
        sharpened: Tensor = unit * length
        return sharpened

    return operation


def sharpening_kernel(radius: int, sigma: float, alpha: float) -> Tensor:
    """(2r+1, 2r+1), sum 1: the centre less 10 · alpha of a Gaussian over -1..1."""
    line = torch.linspace(-1, 1, 2 * radius + 1)
    gauss = torch.exp(-(line[:, None] ** 2 + line**2) / (2 * sigma**2))
    kernel = gauss / gauss.sum() * (-10 * alpha)
    kernel[radius, radius] += 1 + 10 * alpha
    return kernel


def before_guidance(operation: Operation) -> Callable[[dict[str, Any]], list[Tensor]]:
    """Pre-CFG: the operation on the guidance (conditional less unconditional), or on the only prediction."""

    def function(args: dict[str, Any]) -> list[Tensor]:
        outputs: list[Tensor] = args["conds_out"]
        if len(outputs) > 1:
            changed = operation(latent=outputs[0] - outputs[1]) + outputs[1]
        else:
            changed = operation(latent=outputs[0])
        return [changed, *outputs[1:]]

    return function
