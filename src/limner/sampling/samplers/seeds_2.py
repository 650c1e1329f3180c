"""SEEDS-2: a two-stage exponential SDE solver in λ = ln(α/σ).  Gonzalez et al. 2023, Algorithm 1."""

from __future__ import annotations

import math

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import intervals
from limner.sampling.step import Denoise, Noise, Step, Steps


def seeds_2(
    denoise: Denoise,
    x: Tensor,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 0.5,
) -> Steps:
    """Two predictions a step, the second at the fraction r of it."""
    sampling = denoise.sampling
    noisy = eta > 0 and s_noise > 0
    for sigma, after in intervals(sampling.finite_snr(sigmas)):
        denoised = denoise(x, sigma)
        yield Step(x, sigma, denoised)
        if after == 0:
            return denoised
        step = sampling.half_log_snr(after) - sampling.half_log_snr(sigma)
        middle = sampling.sigma_between(sigma, after, r)
        halfway = x * (middle / sigma * math.exp(-r * step * eta))
        halfway = halfway - denoised * (sampling.alpha(middle) * math.expm1(-r * step * (eta + 1)))
        if noisy:
            first, second = noise(sigma, middle), noise(middle, after)
            halfway = halfway + first * (middle * s_noise * math.sqrt(-math.expm1(-2 * r * step * eta)))
        ahead = denoise(halfway, middle)
        part = 1 / (2 * r)
        target = denoised * (1 - part) + ahead * part
        x = x * (after / sigma * math.exp(-step * eta)) - target * (
            sampling.alpha(after) * math.expm1(-step * (eta + 1))
        )
        if noisy:
            faded = math.sqrt(math.exp(-2 * (1 - r) * step * eta) - math.exp(-2 * step * eta))
            fresh = math.sqrt(-math.expm1(-2 * (1 - r) * step * eta))
            x = x + (first * faded + second * fresh) * (after * s_noise)
    return x


VARIANTS = (Sampler("seeds_2", seeds_2, noise="gaussian"),)
