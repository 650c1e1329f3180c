"""Refined exponential solver, two-step.  Zhang, Q. et al. 2023 (arXiv 2308.02157)."""

from __future__ import annotations

import math

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import ancestral, intervals
from limner.sampling.step import Denoise, Noise, Step, Steps


def res_multistep_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    cfg_pp: bool = False,
) -> Steps:
    """One prediction a step. cfg_pp: noise is what the unconditional prediction leaves (Chung et al. 2024)."""
    before: Tensor | None = None
    reached = before_sigma = 0.0
    for sigma, after in intervals(sigmas):
        if cfg_pp:
            denoised, base = denoise.with_uncond(x, sigma)
        else:
            denoised = base = denoise(x, sigma)
        yield Step(x, sigma, denoised)
        down, up = ancestral(sigma, after, eta)
        shifted = x + (denoised - base) if cfg_pp else x
        if down == 0:
            x = denoised
        elif before is None:
            x = shifted * (down / sigma) + base * (1 - down / sigma)
            if cfg_pp:
                x = denoised + (shifted - denoised) * (down / sigma)
        else:
            step = math.log(sigma / down)
            back = math.log(reached / before_sigma) / step
            phi1 = -math.expm1(-step) / step
            phi2 = (1 - phi1) / step
            second = phi2 / back if back else 0.0
            x = shifted * (down / sigma) + (base * (phi1 - second) + before * second) * step
        if after > 0:
            x = x + noise(sigma, after) * (s_noise * up)
        before, before_sigma, reached = base, sigma, down
    return x


def res_multistep(
    denoise: Denoise, x: Tensor, sigmas: list[float], noise: Noise, *, s_noise: float = 1.0, cfg_pp: bool = False
) -> Steps:
    """The same without fresh noise."""
    return res_multistep_ancestral(denoise, x, sigmas, noise, eta=0.0, s_noise=s_noise, cfg_pp=cfg_pp)


VARIANTS = (
    Sampler("res_multistep", res_multistep, noise="gaussian"),
    Sampler("res_multistep_cfg_pp", res_multistep, noise="gaussian", options={"cfg_pp": True}),
    Sampler("res_multistep_ancestral", res_multistep_ancestral, noise="gaussian"),
    Sampler("res_multistep_ancestral_cfg_pp", res_multistep_ancestral, noise="gaussian", options={"cfg_pp": True}),
)
