"""Consistency sampling: predict the clean picture, noise it to the next level.  Luo et al. 2023."""

from __future__ import annotations

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import intervals
from limner.sampling.step import Denoise, Noise, Step, Steps


def lcm(denoise: Denoise, x: Tensor, sigmas: list[float], noise: Noise) -> Steps:
    """One prediction a step."""
    for sigma, after in intervals(sigmas):
        denoised = denoise(x, sigma)
        yield Step(x, sigma, denoised)
        x = denoised
        if after > 0:
            x = denoise.sampling.noise_scaling(after, noise(sigma, after), x)
    return x


VARIANTS = (Sampler("lcm", lcm, noise="gaussian"),)
