"""SEEDS-3: a three-stage exponential SDE solver in λ = ln(α/σ).  Gonzalez et al. 2023, Algorithm 2."""

from __future__ import annotations

import math

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import intervals
from limner.sampling.step import Denoise, Noise, Step, Steps


def seeds_3(
    denoise: Denoise,
    x: Tensor,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r_1: float = 1 / 3,
    r_2: float = 2 / 3,
) -> Steps:
    """Three predictions a step, at 0, r_1 and r_2 of it."""
    sampling = denoise.sampling
    noisy = eta > 0 and s_noise > 0
    for sigma, after in intervals(sampling.finite_snr(sigmas)):
        denoised = denoise(x, sigma)
        yield Step(x, sigma, denoised)
        if after == 0:
            return denoised
        step = sampling.half_log_snr(after) - sampling.half_log_snr(sigma)
        one, two = sampling.sigma_between(sigma, after, r_1), sampling.sigma_between(sigma, after, r_2)
        draws: list[Tensor] = []
        ends = (0.0, r_1, r_2, 1.0)
        if noisy:
            draws = [noise(sigma, one), noise(one, two), noise(two, after)]

        def moved(to: float, part: float, x: Tensor = x, denoised: Tensor = denoised) -> Tensor:
            """x at `to`, `part` of the step on, with this step's noise so far."""
            there = x * (to / sigma * math.exp(-part * step * eta))  # noqa: B023 - used within the step
            there = there - denoised * (sampling.alpha(to) * math.expm1(-part * step * (eta + 1)))  # noqa: B023
            for draw, low, high in zip(draws, ends, ends[1:]):  # noqa: B023
                if high <= part:
                    faded = math.exp(-2 * (part - high) * step * eta) - math.exp(-2 * (part - low) * step * eta)  # noqa: B023
                    there = there + draw * (to * s_noise * math.sqrt(faded))
            return there

        def bend(to: float, part: float) -> float:
            grown = part * step * (eta + 1)  # noqa: B023
            return sampling.alpha(to) * (math.expm1(-grown) / grown + 1)

        second = denoise(moved(one, r_1), one)
        third = denoise(moved(two, r_2) + (second - denoised) * (r_2 / r_1 * bend(two, r_2)), two)
        x = moved(after, 1.0) + (third - denoised) * (bend(after, 1.0) / r_2)
    return x


VARIANTS = (Sampler("seeds_3", seeds_3, noise="gaussian"),)
