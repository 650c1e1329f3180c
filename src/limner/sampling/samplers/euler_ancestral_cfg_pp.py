"""Euler steps that renoise along the unconditional prediction: CFG++.  Chung et al. 2024."""

from __future__ import annotations

import math

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import ancestral, intervals
from limner.sampling.step import Denoise, Noise, Step, Steps


def euler_ancestral_cfg_pp(
    denoise: Denoise, x: Tensor, sigmas: list[float], noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Steps:
    """One prediction a step. eta: how much of the noise is fresh; s_noise: its strength."""
    sampling = denoise.sampling
    for sigma, after in intervals(sigmas):
        denoised, uncond = denoise.with_uncond(x, sigma)
        yield Step(x, sigma, denoised)
        if after == 0:
            x = denoised
            continue
        alpha, alpha_after = sampling.alpha(sigma), sampling.alpha(after)
        noise_direction = (x - alpha * uncond) / sigma
        # A flow starts without any of the picture, alpha 0: as if the noise were boundless.
        down, up = ancestral(sigma / alpha if alpha else math.inf, after / alpha_after, eta)
        x = alpha_after * (denoised + down * noise_direction)
        if eta > 0 and s_noise > 0:
            x = x + noise(sigma, after) * (alpha_after * s_noise * up)
    return x


VARIANTS = (Sampler("euler_ancestral_cfg_pp", euler_ancestral_cfg_pp, noise="gaussian"),)
