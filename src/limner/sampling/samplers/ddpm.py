"""The ancestral step of the original variance-preserving diffusion.  Ho et al. 2020, Algorithm 2."""

from __future__ import annotations

import math

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import intervals, slope
from limner.sampling.step import Denoise, Noise, Step, Steps


def ddpm(denoise: Denoise, x: Tensor, sigmas: list[float], noise: Noise) -> Steps:
    """One prediction a step."""
    for sigma, after in intervals(sigmas):
        denoised = denoise(x, sigma)
        yield Step(x, sigma, denoised)
        kept, kept_after = 1 / (sigma**2 + 1), 1 / (after**2 + 1)
        alpha = kept / kept_after
        scaled = x * math.sqrt(kept)
        x = (scaled - slope(x, sigma, denoised) * ((1 - alpha) / math.sqrt(1 - kept))) / math.sqrt(alpha)
        if after > 0:
            x = x + noise(sigma, after) * math.sqrt((1 - alpha) * (1 - kept_after) / (1 - kept))
            x = x / math.sqrt(kept_after)
    return x


VARIANTS = (Sampler("ddpm", ddpm, noise="gaussian"),)
