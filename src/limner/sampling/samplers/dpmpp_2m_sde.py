"""DPM-Solver++(2M) SDE: two-step exponential multistep with noise, in λ = ln(α/σ).  Lu et al. 2022, appendix."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import intervals
from limner.sampling.step import Denoise, Noise, Step, Steps


def dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver_type: Literal["midpoint", "heun"] = "midpoint",
) -> Steps:
    """One prediction a step. solver_type: how the change of the prediction is weighted."""
    sampling = denoise.sampling
    before: Tensor | None = None
    last_step = 0.0
    for sigma, after in intervals(sampling.finite_snr(sigmas)):
        denoised = denoise(x, sigma)
        yield Step(x, sigma, denoised)
        if after == 0:
            return denoised
        step = sampling.half_log_snr(after) - sampling.half_log_snr(sigma)
        weight = -math.expm1(-step * (eta + 1))
        alpha = sampling.alpha(after)
        x = x * (after / sigma * math.exp(-step * eta)) + denoised * (alpha * weight)
        if before is not None:
            second = weight / 2 if solver_type == "midpoint" else 1 - weight / (step * (eta + 1))
            x = x + (denoised - before) * (alpha * second * step / last_step)
        if eta > 0 and s_noise > 0:
            x = x + noise(sigma, after) * (after * s_noise * math.sqrt(-math.expm1(-2 * step * eta)))
        before, last_step = denoised, step
    return x


VARIANTS = (
    Sampler("dpmpp_2m_sde", dpmpp_2m_sde, noise="brownian"),
    Sampler("dpmpp_2m_sde_gpu", dpmpp_2m_sde, noise="brownian", on_device=True),
    Sampler("dpmpp_2m_sde_heun", dpmpp_2m_sde, noise="brownian", options={"solver_type": "heun"}),
    Sampler("dpmpp_2m_sde_heun_gpu", dpmpp_2m_sde, noise="brownian", on_device=True, options={"solver_type": "heun"}),
)
