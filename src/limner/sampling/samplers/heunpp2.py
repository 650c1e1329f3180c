"""Heun++: slopes at up to three levels, weighted by level over the first level.  Wang et al. 2024."""

from __future__ import annotations

import math

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import churn, slope
from limner.sampling.step import Denoise, Noise, Step, Steps


def heunpp2(
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
    """Three predictions a step, two in the last step but one, one in the last."""
    last = len(sigmas) - 2
    for i in range(last + 1):
        sigma, after = sigmas[i], sigmas[i + 1]
        x, level = churn(x, sigma, noise, last + 1, s_churn, s_tmin, s_tmax, s_noise)
        denoised = denoise(x, level)
        yield Step(x, sigma, denoised, level)
        first = slope(x, level, denoised)
        direction = first
        if after != sigmas[-1]:
            reached = x + first * (after - level)
            second = slope(reached, after, denoise(reached, after))
            beyond = sigmas[i + 2]
            if beyond == sigmas[-1]:
                weight = after / (2 * sigmas[0])
                direction = first * (1 - weight) + second * weight
            else:
                reached = reached + second * (beyond - after)
                third = slope(reached, beyond, denoise(reached, beyond))
                weight, weight_beyond = after / (3 * sigmas[0]), beyond / (3 * sigmas[0])
                direction = first * (1 - weight - weight_beyond) + second * weight + third * weight_beyond
        x = x + direction * (after - level)
    return x


VARIANTS = (Sampler("heunpp2", heunpp2, noise="gaussian"),)
