"""SEEDS-3: a three-stage exponential SDE solver in λ = ln(α/σ).  Gonzalez et al. 2023, Algorithm 2."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from limner.sampling.model_sampling import ModelSampling
from limner.sampling.sampler import Sampler
from limner.sampling.solver import intervals
from limner.sampling.step import Denoise, Noise, Step, Steps


@dataclass(frozen=True)
class Stages:
    """One step: where it starts, its length in λ, the fractions that its stages end at, and each stage's noise."""

    sampling: ModelSampling
    x: Tensor
    denoised: Tensor
    sigma: float
    length: float
    ends: tuple[float, ...]
    draws: tuple[Tensor, ...]
    eta: float

    def at(self, level: float, part: float) -> Tensor:
        """x at `level`, `part` of the step on, drawn to the first prediction, with the noise so far."""
        step = self.length
        x = self.x * (level / self.sigma * math.exp(-part * step * self.eta))
        x = x - self.denoised * (self.sampling.alpha(level) * math.expm1(-part * step * (self.eta + 1)))
        for draw, (low, high) in zip(self.draws, pairwise(self.ends), strict=False):
            if high <= part:
                faded = math.exp(-2 * (part - high) * step * self.eta) - math.exp(-2 * (part - low) * step * self.eta)
                x = x + draw * (level * math.sqrt(faded))
        return x

    def bend(self, level: float, part: float) -> float:
        """The weight at `level` of a change of the prediction."""
        grown = part * self.length * (self.eta + 1)
        return self.sampling.alpha(level) * (math.expm1(-grown) / grown + 1)


def seeds_3(
    denoise: Denoise,
    x: Tensor,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r_1: float = 1 / 3,
    r_2: float = 2 / 3,
) -> Steps:
    """Three predictions a step, at 0, r_1 and r_2 of it."""
    sampling = denoise.sampling
    for sigma, after in intervals(sampling.finite_snr(sigmas)):
        denoised = denoise(x, sigma)
        yield Step(x, sigma, denoised)
        if after == 0:
            return denoised
        length = sampling.half_log_snr(after) - sampling.half_log_snr(sigma)
        one, two = sampling.sigma_between(sigma, after, r_1), sampling.sigma_between(sigma, after, r_2)
        draws: tuple[Tensor, ...] = ()
        if eta > 0 and s_noise > 0:
            draws = tuple(noise(*ends) * s_noise for ends in ((sigma, one), (one, two), (two, after)))
        stages = Stages(sampling, x, denoised, sigma, length, (0.0, r_1, r_2, 1.0), draws, eta)
        second = denoise(stages.at(one, r_1), one)
        third = denoise(stages.at(two, r_2) + (second - denoised) * (r_2 / r_1 * stages.bend(two, r_2)), two)
        x = stages.at(after, 1.0) + (third - denoised) * (stages.bend(after, 1.0) / r_2)
    return x


VARIANTS = (Sampler("seeds_3", seeds_3, noise="gaussian"),)
