"""DEIS: multistep with polynomials in a variance-preserving time.  Zhang & Chen 2022, tAB and rhoAB."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.solver import intervals, lagrange_integrals, slope
from limner.sampling.step import Denoise, Step, Steps

POINTS = 10_000  # of the quadrature, as published; the rule is a plain sum, so their number shows in the fourth digit


class VPTime:
    """σ(t)² = exp(½ b t² + a t) - 1, fitted so that σ(1e-3) = 0.002 and σ(1) = 80.  Song et al. 2021."""

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, first: float = 1e-3) -> None:
        low, high = math.log(sigma_min**2 + 1), math.log(sigma_max**2 + 1)
        self.b = 2 * (low / first - high) / (first - 1)
        self.a = high - 0.5 * self.b

    def time(self, sigma: float) -> float:
        """t of a level."""
        return (math.sqrt(self.a**2 + 2 * self.b * math.log(sigma**2 + 1)) - self.a) / self.b

    def rate(self, times: np.ndarray) -> np.ndarray:
        """dσ/dt."""
        grown = np.exp(0.5 * self.b * times**2 + self.a * times)
        rate: np.ndarray = 0.5 * (self.b * times + self.a) * grown / np.sqrt(grown - 1)
        return rate


def deis(
    denoise: Denoise,
    x: Tensor,
    sigmas: list[float],
    *,
    max_order: int = 3,
    deis_mode: Literal["tab", "rhoab"] = "tab",
) -> Steps:
    """One prediction a step. max_order: how many slopes are used; deis_mode: polynomials in t, or in σ."""
    start = x
    slopes: list[Tensor] = []
    for i, (sigma, after) in enumerate(intervals(sigmas)):
        denoised = denoise(x, sigma)
        yield Step(start, sigma, denoised)
        if after <= 0:
            return denoised
        slopes = [slope(x, sigma, denoised), *slopes][:max_order]
        nodes = [sigmas[i - k] for k in range(len(slopes))]
        if len(nodes) == 1:
            weights = [after - sigma]
        elif deis_mode == "tab":
            weights = _tab_weights(nodes, after)
        else:
            weights = lagrange_integrals(nodes, sigma, after)
        for weight, direction in zip(weights, slopes, strict=True):
            x = x + direction * weight
    return x


def _tab_weights(nodes: Sequence[float], after: float) -> list[float]:
    """∫ of dσ/dt times each Lagrange polynomial in t over the nodes' times, from the first node to `after`."""
    clock = VPTime()
    times = [clock.time(sigma) for sigma in nodes]
    start, end = times[0], clock.time(after)
    grid = np.linspace(start, end, POINTS)
    rate = clock.rate(grid) * ((end - start) / POINTS)
    weights = []
    for j, node in enumerate(times):
        basis = np.ones_like(grid)
        for k, other in enumerate(times):
            if k != j:
                basis *= (grid - other) / (node - other)
        weights.append(float((rate * basis).sum()))
    return weights


VARIANTS = (Sampler("deis", deis),)
