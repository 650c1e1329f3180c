"""Extended reverse-time SDE solver of order three.  Cui et al. 2023 (arXiv 2309.06169)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.step import Denoise, Noise, Step, Steps

POINTS = 200  # of the left-sided quadrature, as published


def er_sde_scaler(level: np.ndarray) -> np.ndarray:
    """The published noise scaler f(λ) = λ (e^(λ^0.3) + 10) for λ = σ/α."""
    scaled: np.ndarray = level * (np.exp(level**0.3) + 10.0)
    return scaled


def reverse_time_scaler(eta: float) -> Callable[[np.ndarray], np.ndarray]:
    """The reverse-time SDE's scaler λ^(eta + 1); eta 0 is the probability-flow ODE."""
    return lambda level: np.power(level, eta + 1)


def er_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: list[float],
    noise: Noise,
    *,
    s_noise: float = 1.0,
    noise_scaler: Callable[[np.ndarray], np.ndarray] = er_sde_scaler,
    max_stage: int = 3,
) -> Steps:
    """One prediction a step. noise_scaler: f of σ/α (an array), which sets how much noise a step renews."""
    sampling = denoise.sampling
    sigmas = sampling.finite_snr(sigmas)
    levels = [sigma / sampling.alpha(sigma) for sigma in sigmas]
    before: Tensor | None = None
    before_change: Tensor | None = None
    for i, sigma in enumerate(sigmas[:-1]):
        after = sigmas[i + 1]
        denoised = denoise(x, sigma)
        yield Step(x, sigma, denoised)
        if after == 0:
            return denoised
        level, next_level = levels[i], levels[i + 1]
        alpha, next_alpha = sampling.alpha(sigma), sampling.alpha(after)
        ends = noise_scaler(np.array([level, next_level]))
        kept = float(ends[1] / ends[0])
        x = x * (next_alpha / alpha * kept) + denoised * (next_alpha * (1 - kept))
        if before is not None and max_stage >= 2:
            step = next_level - level
            width = -step / POINTS
            positions = next_level + np.arange(POINTS) * width
            inverse = 1 / noise_scaler(positions)
            change = (denoised - before) / (level - levels[i - 1])
            x = x + change * (next_alpha * (step + float(inverse.sum() * width * ends[1])))
            if before_change is not None and max_stage >= 3:
                area = float(((positions - level) * inverse).sum() * width * ends[1])
                curve = (change - before_change) / ((level - levels[i - 2]) / 2)
                x = x + curve * (next_alpha * (step**2 / 2 + area))
            before_change = change
        if s_noise > 0:
            spread = math.sqrt(max(next_level**2 - level**2 * kept**2, 0.0))
            x = x + noise(sigma, after) * (next_alpha * s_noise * spread)
        before = denoised
    return x


VARIANTS = (Sampler("er_sde", er_sde, noise="gaussian"),)
