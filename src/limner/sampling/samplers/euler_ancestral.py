"""Euler steps that overshoot and add noise back."""

from __future__ import annotations

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import ancestral, flow_ancestral, intervals, slope
from limner.sampling.step import Denoise, Noise, Step, Steps


def euler_ancestral(
    denoise: Denoise, x: Tensor, sigmas: list[float], noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Steps:
    """One prediction a step. eta: how much of the noise is fresh; s_noise: its strength."""
    flow = denoise.sampling.is_flow
    for sigma, after in intervals(sigmas):
        denoised = denoise(x, sigma)
        yield Step(x, sigma, denoised)
        if after == 0:
            x = denoised
        elif flow:
            down, scale, up = flow_ancestral(sigma, after, eta)
            x = x * (down / sigma) + denoised * (1 - down / sigma)
            if eta > 0:
                x = x * scale + noise(sigma, after) * (s_noise * up)
        else:
            down, up = ancestral(sigma, after, eta)
            x = x + slope(x, sigma, denoised) * (down - sigma)
            x = x + noise(sigma, after) * (s_noise * up)
    return x


VARIANTS = (Sampler("euler_ancestral", euler_ancestral, noise="gaussian"),)
