"""How alike two pictures are: peak signal to noise, structural similarity, similarity of gradients.

Pictures are (height, width, 3) in 0..1. Sources: Wang et al. 2004, "Image Quality Assessment: From Error Visibility to
Structural Similarity" (11×11 Gaussian window of σ = 1.5, K₁ = 0.01, K₂ = 0.03); Xue et al. 2014, "Gradient Magnitude
Similarity Deviation" (Prewitt's filters on grey at half size, c = 170 of 255²).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log10

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.errors import BadInput

WINDOW = 11
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2
GRADIENT_C = 170 / 255**2
GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Likeness:
    """psnr: dB, infinite for equal pictures. ssim: 1 for equal ones. gmsd: 0 for equal ones, more the less alike."""

    psnr: float
    ssim: float
    gmsd: float


def likeness(one: Tensor, other: Tensor) -> Likeness:
    """Of two pictures of the same size. Raises BadInput where they are not, or are smaller than 16 pixels."""
    if one.shape != other.shape or one.ndim != 3 or min(one.shape[:2]) < 16:
        raise BadInput(
            f"Pictures of {list(one.shape)} and {list(other.shape)} cannot be compared.",
            why="They have one size, (height, width, channels), of 16 pixels or more each way.",
        )
    first, second = (picture.detach().float().cpu().clamp(0, 1).movedim(-1, 0)[:3] for picture in (one, other))
    return Likeness(_psnr(first, second), _ssim(first, second), _gmsd(first, second))


def _psnr(one: Tensor, other: Tensor) -> float:
    error = float((one - other).double().square().mean())
    return -10 * log10(error) if error else inf


def _ssim(one: Tensor, other: Tensor) -> float:
    place = torch.arange(WINDOW) - WINDOW // 2
    line = torch.exp(-(place**2) / (2 * SIGMA**2))
    window = (line[:, None] * line[None] / line.sum() ** 2)[None, None]

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x[:, None], window)

    mean_one, mean_other = mean(one), mean(other)
    var_one, var_other = mean(one * one) - mean_one**2, mean(other * other) - mean_other**2
    covariance = mean(one * other) - mean_one * mean_other
    alike = (2 * mean_one * mean_other + C1) * (2 * covariance + C2)
    return float((alike / ((mean_one**2 + mean_other**2 + C1) * (var_one + var_other + C2))).mean())


def _gmsd(one: Tensor, other: Tensor) -> float:
    first, second = _gradients(one), _gradients(other)
    similar = (2 * first * second + GRADIENT_C) / (first**2 + second**2 + GRADIENT_C)
    return float(similar.std(unbiased=False))


def _gradients(picture: Tensor) -> Tensor:
    """Magnitudes on the grey picture of half the size."""
    weights = torch.tensor(GREY[: picture.shape[0]])
    grey = (picture * (weights / weights.sum())[:, None, None]).sum(0)
    half = F.avg_pool2d(grey[None, None], 2)
    across = torch.tensor([[1.0, 0.0, -1.0]]).repeat(3, 1)[None, None] / 3
    return (F.conv2d(half, across) ** 2 + F.conv2d(half, across.mT) ** 2).sqrt()
