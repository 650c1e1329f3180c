"""Improved pseudo-numerical method: Adams-Bashforth over the slopes.  Zhang & Chen 2022; Zhou et al. 2024."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import intervals, slope
from limner.sampling.step import Denoise, Step, Steps

ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def ipndm(denoise: Denoise, x: Tensor, sigmas: list[float], *, max_order: int = 4) -> Steps:
    """One prediction a step, with the weights of even steps whatever the steps are."""
    start = x
    slopes: list[Tensor] = []
    for sigma, after in intervals(sigmas):
        denoised = denoise(x, sigma)
        yield Step(start, sigma, denoised)
        if after == 0:
            return denoised
        slopes = [slope(x, sigma, denoised), *slopes][:max_order]
        for weight, direction in zip(ADAMS_BASHFORTH[len(slopes) - 1], slopes, strict=True):
            x = x + direction * (weight * (after - sigma))
    return x


def ipndm_v(denoise: Denoise, x: Tensor, sigmas: list[float], *, max_order: int = 4) -> Steps:
    """One prediction a step, with the weights of the actual steps."""
    start = x
    slopes: list[Tensor] = []
    for i, (sigma, after) in enumerate(intervals(sigmas)):
        denoised = denoise(x, sigma)
        yield Step(start, sigma, denoised)
        if after == 0:
            return denoised
        slopes = [slope(x, sigma, denoised), *slopes][:max_order]
        nodes = [sigmas[i - k] for k in range(len(slopes))]
        for weight, direction in zip(_variable_weights([after, *nodes]), slopes, strict=True):
            x = x + direction * (weight * (after - sigma))
    return x


def _variable_weights(levels: list[float]) -> list[float]:
    """Weights for the slopes at levels[1:] over the step from levels[1] to levels[0]."""
    steps = [new - old for new, old in pairwise(levels)]
    if not steps[1:]:
        return [1.0]
    h, h1 = steps[:2]
    half = h / h1 / 2
    if len(steps) == 2:
        return [1 + half, -half]
    h2 = steps[2]
    ratio = h1 / h2
    a = (1 - h / (3 * (h + h1)) * (h * (h + h1)) / (h1 * (h1 + h2))) / 2
    if len(steps) == 3:
        return [1 + half + a, -half - (1 + ratio) * a, a * ratio]
    h3 = steps[3]
    b = (1 - h / (3 * (h + h1))) / 2 + (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))
    b *= h * (h + h1) * (h + h1 + h2) / (h1 * (h1 + h2) * (h1 + h2 + h3))
    far = h1 * (h1 + h2) / (h2 * (h2 + h3))
    return [
        1 + half + a + b,
        -half - (1 + ratio) * a - (1 + ratio + far) * b,
        a * ratio + (ratio + far * (1 + h2 / h3)) * b,
        -b * far * ratio,
    ]


VARIANTS = (Sampler("ipndm", ipndm), Sampler("ipndm_v", ipndm_v))
