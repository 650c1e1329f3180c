"""Gradient estimation: Euler steps that extrapolate the change of slope.  Permenter & Yuan 2024, Algorithm 2."""

from __future__ import annotations

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import intervals, slope
from limner.sampling.step import Denoise, Step, Steps


def gradient_estimation(denoise: Denoise, x: Tensor, sigmas: list[float], *, ge_gamma: float = 2.0) -> Steps:
    """One prediction a step. ge_gamma: 1 is Euler."""
    before: Tensor | None = None
    for sigma, after in intervals(sigmas):
        denoised = denoise(x, sigma)
        yield Step(x, sigma, denoised)
        if after == 0:
            return denoised
        direction = slope(x, sigma, denoised)
        x = x + direction * (after - sigma)
        if before is not None:
            x = x + (direction - before) * ((ge_gamma - 1) * (after - sigma))
        before = direction
    return x


def gradient_estimation_cfg_pp(denoise: Denoise, x: Tensor, sigmas: list[float], *, ge_gamma: float = 2.0) -> Steps:
    """The same along the unconditional prediction's noise.  Chung et al. 2024."""
    before: Tensor | None = None
    for sigma, after in intervals(sigmas):
        denoised, uncond = denoise.with_uncond(x, sigma)
        yield Step(x, sigma, denoised)
        if after == 0:
            return denoised
        direction = slope(x, sigma, uncond)
        x = denoised + direction * after
        if before is not None:
            x = x + (direction - before) * ((ge_gamma - 1) * (after - sigma))
        before = direction
    return x


VARIANTS = (
    Sampler("gradient_estimation", gradient_estimation),
    Sampler("gradient_estimation_cfg_pp", gradient_estimation_cfg_pp),
)
