"""DPM-Solver++(2S) with fresh noise: a prediction halfway in λ, then noise back up.  Lu et al. 2022, Algorithm 1."""

from __future__ import annotations

import math

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import ancestral, flow_ancestral, intervals
from limner.sampling.step import Denoise, Noise, Step, Steps


def dpmpp_2s_ancestral(
    denoise: Denoise, x: Tensor, sigmas: list[float], noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Steps:
    """Two predictions a step. eta: how much of the noise is fresh; s_noise: its strength."""
    sampling = denoise.sampling
    for sigma, after in intervals(sigmas):
        denoised = denoise(x, sigma)
        yield Step(x, sigma, denoised)
        if after == 0:
            return denoised
        if sampling.is_flow:
            down, scale, up = flow_ancestral(sigma, after, eta)
        else:
            (down, up), scale = ancestral(sigma, after, eta), 1.0
        if down == 0:
            x = denoised + noise(sigma, after) * (s_noise * up)
            continue
        middle = 0.9999 if sampling.is_flow and sigma == 1 else sampling.sigma_between(sigma, down, 0.5)
        halfway = x * (middle / sigma) + denoised * (1 - middle / sigma)
        ahead = denoise(halfway, middle)
        x = x * (down / sigma) + ahead * (1 - down / sigma)
        if eta > 0:
            x = x * scale + noise(sigma, after) * (s_noise * up)
    return x


def dpmpp_2s_ancestral_cfg_pp(
    denoise: Denoise, x: Tensor, sigmas: list[float], noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Steps:
    """The same with CFG++: noise is what the unconditional prediction leaves.  Chung et al. 2024."""
    for sigma, after in intervals(sigmas):
        denoised, uncond = denoise.with_uncond(x, sigma)
        yield Step(x, sigma, denoised)
        down, up = ancestral(sigma, after, eta)
        if down == 0:
            x = denoised
        else:
            shifted = x + (denoised - uncond)
            middle = math.sqrt(sigma * down)
            halfway = shifted * (middle / sigma) + denoised * (1 - middle / sigma)
            ahead, uncond = denoise.with_uncond(halfway, middle)
            x = (x + (denoised - uncond)) * (down / sigma) + ahead * (1 - down / sigma)
        if after > 0:
            x = x + noise(sigma, after) * (s_noise * up)
    return x


VARIANTS = (
    Sampler("dpmpp_2s_ancestral", dpmpp_2s_ancestral, noise="gaussian"),
    Sampler("dpmpp_2s_ancestral_cfg_pp", dpmpp_2s_ancestral_cfg_pp, noise="gaussian"),
)
