"""DPM-Solver++(2M): two-step exponential multistep in -ln σ.  Lu et al. 2022, Algorithm 2."""

from __future__ import annotations

import math

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import intervals
from limner.sampling.step import Denoise, Step, Steps


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: list[float]) -> Steps:
    """One prediction a step."""
    before: Tensor | None = None
    last_step = 0.0
    for sigma, after in intervals(sigmas):
        denoised = denoise(x, sigma)
        yield Step(x, sigma, denoised)
        if after == 0:
            return denoised
        step = math.log(sigma / after)
        target = denoised
        if before is not None:
            target = denoised + (denoised - before) * (step / (2 * last_step))
        x = x * (after / sigma) - target * math.expm1(-step)
        before, last_step = denoised, step
    return x


def dpmpp_2m_cfg_pp(denoise: Denoise, x: Tensor, sigmas: list[float]) -> Steps:
    """The same with CFG++: noise is what the unconditional prediction leaves.  Chung et al. 2024."""
    before: Tensor | None = None
    last_step = 0.0
    for sigma, after in intervals(sigmas):
        denoised, uncond = denoise.with_uncond(x, sigma)
        yield Step(x, sigma, denoised)
        if after == 0:
            return denoised
        step = math.log(sigma / after)
        ratio = after / sigma
        correction = -ratio * uncond
        if before is not None:
            correction = correction - (denoised - before) * (math.expm1(-step) * step / (2 * last_step))
        x = denoised + correction + ratio * x
        before, last_step = uncond, step
    return x


VARIANTS = (Sampler("dpmpp_2m", dpmpp_2m), Sampler("dpmpp_2m_cfg_pp", dpmpp_2m_cfg_pp))
