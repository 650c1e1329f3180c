"""DPM-Solver++ (SDE): two stages along one Brownian path, in λ = ln(α/σ).  Lu et al. 2022, appendix."""

from __future__ import annotations

from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import ancestral, intervals
from limner.sampling.step import Denoise, Noise, Step, Steps


def dpmpp_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 0.5,
) -> Steps:
    """Two predictions a step, the second at the fraction r of it."""
    sampling = denoise.sampling

    def stage(x: Tensor, target: Tensor, sigma: float, to: float) -> Tensor:
        """x at `to`, if `target` is where it is going."""
        alpha, alpha_to = sampling.alpha(sigma), sampling.alpha(to)
        down, up = ancestral(sigma / alpha, to / alpha_to, eta)
        ratio = down / (sigma / alpha)
        x = x * (alpha_to / alpha * ratio) + target * (alpha_to * (1 - ratio))
        if eta > 0 and s_noise > 0:
            x = x + noise(sigma, to) * (alpha_to * s_noise * up)
        return x

    for sigma, after in intervals(sampling.finite_snr(sigmas)):
        denoised = denoise(x, sigma)
        yield Step(x, sigma, denoised)
        if after == 0:
            return denoised
        middle = sampling.sigma_between(sigma, after, r)
        ahead = denoise(stage(x, denoised, sigma, middle), middle)
        part = 1 / (2 * r)
        x = stage(x, denoised * (1 - part) + ahead * part, sigma, after)
    return x


VARIANTS = (
    Sampler("dpmpp_sde", dpmpp_sde, noise="brownian"),
    Sampler("dpmpp_sde_gpu", dpmpp_sde, noise="brownian", on_device=True),
)
