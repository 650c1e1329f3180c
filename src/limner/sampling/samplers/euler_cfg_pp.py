"""CFG++ without fresh noise.  Chung et al. 2024, Algorithm 1."""

from __future__ import annotations

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.samplers.euler_ancestral_cfg_pp import euler_ancestral_cfg_pp
from limner.sampling.solver import intervals
from limner.sampling.step import Denoise, Step, Steps


def euler_past_guided(denoise: Denoise, x: Tensor, sigmas: list[float]) -> Steps:
    """Euler's method towards as far past the guided prediction as that is from the unconditional one."""
    for sigma, after in intervals(sigmas):
        denoised, uncond = denoise.with_uncond(x, sigma)
        yield Step(x, sigma, denoised)
        target = 2 * denoised - uncond
        x = x + (x - target) * ((after - sigma) / sigma)
    return x


VARIANTS = (Sampler("euler_cfg_pp", euler_ancestral_cfg_pp, noise="gaussian", options={"eta": 0.0, "s_noise": 0.0}),)
ALTERNATIVE = Sampler("euler_cfg_pp", euler_past_guided)
