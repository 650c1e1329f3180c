"""Heun's second-order method, with optional churn.  Karras et al. 2022, Algorithm 2."""

from __future__ import annotations

import math

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import churn, intervals, slope
from limner.sampling.step import Denoise, Noise, Step, Steps


def heun(
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
    """Two predictions a step; the step to 0 is Euler's."""
    for sigma, after in intervals(sigmas):
        x, level = churn(x, sigma, noise, len(sigmas) - 1, s_churn, s_tmin, s_tmax, s_noise)
        denoised = denoise(x, level)
        yield Step(x, sigma, denoised, level)
        first = slope(x, level, denoised)
        reached = x + first * (after - level)
        if after > 0:
            second = slope(reached, after, denoise(reached, after))
            reached = x + (first + second) / 2 * (after - level)
        x = reached
    return x


VARIANTS = (Sampler("heun", heun, noise="gaussian"),)
