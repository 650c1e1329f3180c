"""DPM-Solver++(3M) SDE: three-step exponential multistep with noise, in λ = ln(α/σ)."""

from __future__ import annotations

import math

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import intervals
from limner.sampling.step import Denoise, Noise, Step, Steps


def dpmpp_3m_sde(
    denoise: Denoise, x: Tensor, sigmas: list[float], noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Steps:
    """One prediction a step."""
    sampling = denoise.sampling
    past: list[Tensor] = []  # predictions and steps, newest first
    steps: list[float] = []
    for sigma, after in intervals(sampling.finite_snr(sigmas)):
        denoised = denoise(x, sigma)
        yield Step(x, sigma, denoised)
        if after == 0:
            return denoised
        step = sampling.half_log_snr(after) - sampling.half_log_snr(sigma)
        grown = step * (eta + 1)
        phi1 = -math.expm1(-grown)
        phi2 = 1 - phi1 / grown
        phi3 = phi2 / grown - 0.5
        alpha = sampling.alpha(after)
        x = x * (after / sigma * math.exp(-step * eta)) + denoised * (alpha * phi1)
        if past:
            first = (denoised - past[0]) * (step / steps[0])
            if len(past) > 1:
                earlier = (past[0] - past[1]) * (step / steps[1])
                r0, r1 = steps[0] / step, steps[1] / step
                curve = (first - earlier) / (r0 + r1)
                first = first + curve * r0
                x = x - curve * (alpha * phi3)
            x = x + first * (alpha * phi2)
        if eta > 0 and s_noise > 0:
            x = x + noise(sigma, after) * (after * s_noise * math.sqrt(-math.expm1(-2 * step * eta)))
        past, steps = [denoised, *past][:2], [step, *steps][:2]
    return x


VARIANTS = (
    Sampler("dpmpp_3m_sde", dpmpp_3m_sde, noise="brownian"),
    Sampler("dpmpp_3m_sde_gpu", dpmpp_3m_sde, noise="brownian", on_device=True),
)
