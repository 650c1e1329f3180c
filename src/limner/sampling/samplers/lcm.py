"""Consistency sampling: predict the clean picture, noise it to the next level.  Luo et al. 2023."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from limner.sampling.resize import common_upscale
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


def growing_lcm(
    denoise: Denoise,
    x: Tensor,
    sigmas: list[float],
    noise: Callable[..., Tensor],
    *,
    ratio: float,
    steps: int,
    method: str,
) -> Steps:
    """LCM whose prediction is resized in each of the first `steps` steps, evenly up to `ratio`."""
    height, width = x.shape[-2:]
    for i, (sigma, after) in enumerate(intervals(sigmas)):
        denoised = denoise(x, sigma)
        yield Step(x, sigma, denoised)
        x = denoised
        if i < steps:
            scale = 1 + (ratio - 1) * (i + 1) / steps
            x = common_upscale(x, round(width * scale), round(height * scale), method)
        if after > 0:
            x = denoise.sampling.noise_scaling(after, noise(sigma, after, x), x)
    return x


def lcm_upscale(ratio: float, steps: int | None, method: str) -> Sampler:
    """A sampler that makes the latent `ratio` times as large over its first `steps` steps; None: half of them."""

    def generate(denoise: Denoise, x: Tensor, sigmas: list[float], noise: Noise) -> Steps:
        count = max(len(sigmas) // 2, 1) if steps is None else min(steps, len(sigmas))
        return growing_lcm(denoise, x, sigmas, noise, ratio=ratio, steps=count, method=method)

    return Sampler("lcm_upscale", generate, noise="gaussian")


VARIANTS = (Sampler("lcm", lcm, noise="gaussian"),)
