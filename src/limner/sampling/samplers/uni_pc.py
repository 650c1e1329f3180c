"""UniPC: a multistep predictor and a corrector that reuses its prediction.  Zhao et al. 2023, Algorithms 1 and 2."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import intervals
from limner.sampling.step import Denoise, Step, Steps

LAST_SIGMA = 0.001
"""Stands for 0, which has no logarithm."""


def uni_pc(denoise: Denoise, x: Tensor, sigmas: list[float], *, variant: Literal["bh1", "bh2"] = "bh1") -> Steps:
    """One prediction a step. variant: the published choices B(h) = h and B(h) = e^h - 1.

    x is clean + sigma · noise; the method is written for x / √(1 + σ²), which cancels but shows in the steps' x.
    """
    to_zero = sigmas[-1] == 0
    if to_zero:
        sigmas = [*sigmas[:-1], LAST_SIGMA]
    levels = _float32_levels(sigmas)
    steps = len(sigmas) - 1
    highest = max(min(3, steps - 1), 1)
    past = [denoise(x, sigmas[0])]  # newest first
    times = [-math.log(levels[0])]
    for i, (sigma, after) in enumerate(intervals(sigmas)):
        if i < steps - 1:
            yield Step(x / math.sqrt(1 + sigma**2), sigma, past[0])
        order = min(highest, i + 1, steps - i)
        time = -math.log(levels[i + 1])
        h = time - times[0]
        ratios = [(earlier - times[0]) / h for earlier in times[1:order]]
        changes = [(earlier - past[0]) / ratio for earlier, ratio in zip(past[1:order], ratios, strict=True)]
        matrix, target, scale = _system([*ratios, 1.0], -h, variant)
        base = x * (levels[i + 1] / levels[i]) - past[0] * math.expm1(-h)
        x = _corrected(base, changes, _solve(matrix, target, order - 1), scale)
        if i == steps - 1:
            yield Step(x, sigma, past[0])
            return denoise.sampling.inverse_noise_scaling(after, x) if to_zero else x
        denoised = denoise(x, after)
        weights = [0.5] if order == 1 else np.linalg.solve(matrix, target).tolist()
        x = _corrected(base, [*changes, denoised - past[0]], weights, scale)
        past, times = [denoised, *past][:highest], [time, *times][:highest]
    return x


def _float32_levels(sigmas: list[float]) -> list[float]:
    """σ of α = 1/√(1 + σ²) in float32, the published coordinates: below 0.01 their rounding shows in the picture."""
    log_alpha = 0.5 * torch.log(1 / (torch.tensor(sigmas) ** 2 + 1))
    levels: list[float] = (torch.sqrt(1 - torch.exp(2 * log_alpha)) / torch.exp(log_alpha)).tolist()
    return levels


def _system(ratios: list[float], h: float, variant: str) -> tuple[np.ndarray, np.ndarray, float]:
    """The order conditions R ρ = b for these step ratios, and B(h)."""
    scale = h if variant == "bh1" else math.expm1(h)
    phi = math.expm1(h) / h - 1
    factorial = 1
    rows, target = [], []
    for i in range(1, len(ratios) + 1):
        rows.append([ratio ** (i - 1) for ratio in ratios])
        target.append(phi * factorial / scale)
        factorial *= i + 1
        phi = phi / h - 1 / factorial
    return np.array(rows), np.array(target), scale


def _solve(matrix: np.ndarray, target: np.ndarray, size: int) -> list[float]:
    """The predictor's weights: the conditions without the new prediction."""
    if size < 2:
        return [0.5] * size
    weights: list[float] = np.linalg.solve(matrix[:size, :size], target[:size]).tolist()
    return weights


def _corrected(base: Tensor, changes: list[Tensor], weights: list[float], scale: float) -> Tensor:
    for weight, change in zip(weights, changes, strict=True):
        base = base - change * (scale * weight)
    return base


VARIANTS = (
    Sampler("uni_pc", uni_pc, discards_penultimate=True),
    Sampler("uni_pc_bh2", uni_pc, discards_penultimate=True, options={"variant": "bh2"}),
)
