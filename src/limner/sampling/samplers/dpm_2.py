"""DPM-Solver-2: the midpoint method in ln σ, with optional churn.  Karras et al. 2022; Lu et al. 2022."""

from __future__ import annotations

import math

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import churn, intervals, slope
from limner.sampling.step import Denoise, Noise, Step, Steps


def dpm_2(
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
        direction = slope(x, level, denoised)
        if after > 0:
            middle = math.sqrt(level * after)
            halfway = x + direction * (middle - level)
            direction = slope(halfway, middle, denoise(halfway, middle))
        x = x + direction * (after - level)
    return x


VARIANTS = (Sampler("dpm_2", dpm_2, noise="gaussian", discards_penultimate=True),)
