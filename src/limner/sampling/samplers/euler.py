"""Euler's method for dx/dσ = (x - D(x, σ)) / σ, with optional churn.  Karras et al. 2022, Algorithm 2."""

from __future__ import annotations

import math

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import churn, intervals, slope
from limner.sampling.step import Denoise, Noise, Step, Steps


def euler(
    denoise: Denoise,
    x: Tensor,
    sigmas: list[float],
    noise: Noise,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Steps:
    """One prediction a step."""
    for sigma, after in intervals(sigmas):
        x, level = churn(x, sigma, noise, len(sigmas) - 1, s_churn, s_tmin, s_tmax, s_noise)
        denoised = denoise(x, level)
        yield Step(x, sigma, denoised, level)
        x = x + slope(x, level, denoised) * (after - level)
    return x


VARIANTS = (Sampler("euler", euler, noise="gaussian"),)
