"""Linear multistep: Adams-Bashforth in σ over the slopes of the last steps."""

from __future__ import annotations

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import intervals, lagrange_integrals, slope
from limner.sampling.step import Denoise, Step, Steps


def lms(denoise: Denoise, x: Tensor, sigmas: list[float], *, order: int = 4) -> Steps:
    """One prediction a step. order: how many slopes are used."""
    slopes: list[Tensor] = []
    for i, (sigma, after) in enumerate(intervals(sigmas)):
        denoised = denoise(x, sigma)
        yield Step(x, sigma, denoised)
        if after == 0:
            return denoised
        slopes = [slope(x, sigma, denoised), *slopes][:order]
        nodes = [sigmas[i - k] for k in range(len(slopes))]
        for weight, direction in zip(lagrange_integrals(nodes, sigma, after), slopes, strict=True):
            x = x + weight * direction
    return x


VARIANTS = (Sampler("lms", lms),)
