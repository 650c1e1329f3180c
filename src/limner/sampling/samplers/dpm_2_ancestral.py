"""DPM-Solver-2 with fresh noise: the midpoint method to a lower level, then noise back up."""

from __future__ import annotations

import math

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import ancestral, flow_ancestral, intervals, slope
from limner.sampling.step import Denoise, Noise, Step, Steps


def dpm_2_ancestral(
    denoise: Denoise, x: Tensor, sigmas: list[float], noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Steps:
    """Two predictions a step. eta: how much of the noise is fresh; s_noise: its strength."""
    split = flow_ancestral if denoise.sampling.is_flow else _unscaled
    for sigma, after in intervals(sigmas):
        denoised = denoise(x, sigma)
        yield Step(x, sigma, denoised)
        down, scale, up = split(sigma, after, eta)
        direction = slope(x, sigma, denoised)
        if down == 0:
            x = x + direction * (down - sigma)
            continue
        middle = math.sqrt(sigma * down)
        halfway = x + direction * (middle - sigma)
        direction = slope(halfway, middle, denoise(halfway, middle))
        x = (x + direction * (down - sigma)) * scale + noise(sigma, after) * (s_noise * up)
    return x


def _unscaled(sigma: float, after: float, eta: float) -> tuple[float, float, float]:
    down, up = ancestral(sigma, after, eta)
    return down, 1.0, up


VARIANTS = (Sampler("dpm_2_ancestral", dpm_2_ancestral, noise="gaussian", discards_penultimate=True),)
