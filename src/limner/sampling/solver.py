"""Formulas that several samplers share. Sigmas are plain floats: they never leave the CPU."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor

from limner.sampling.step import Noise


def intervals(sigmas: Sequence[float]) -> Iterator[tuple[float, float]]:
    """(sigma, the sigma after it) for every step."""
    return pairwise(sigmas)


def slope(x: Tensor, sigma: float, denoised: Tensor) -> Tensor:
    """dx/dσ of the probability-flow ODE.  Karras et al. 2022, eq. 1."""
    return (x - denoised) / sigma


def churn(
    x: Tensor,
    sigma: float,
    noise: Noise,
    steps: int,
    s_churn: float,
    s_tmin: float,
    s_tmax: float,
    s_noise: float,
) -> tuple[Tensor, float]:
    """x with a little noise added, and its new level.  Karras et al. 2022, Algorithm 2, lines 4-6."""
    gamma = min(s_churn / steps, 2**0.5 - 1) if s_tmin <= sigma <= s_tmax else 0.0
    if gamma <= 0:
        return x, sigma
    higher = sigma * (gamma + 1)
    return x + noise(sigma, higher) * (s_noise * math.sqrt(higher**2 - sigma**2)), higher


def ancestral(sigma: float, after: float, eta: float) -> tuple[float, float]:
    """(down, up): step to `down` without noise, then add `up` of it, to be at `after`.  Song et al. 2021, eq. 16."""
    if not eta:
        return after, 0.0
    if sigma == math.inf:  # nothing to keep: all of the noise is fresh
        return 0.0, after
    # In float32, as published: next to pure noise `down` cancels to 0, and what was there is dropped.
    old, new = np.float32(sigma) ** 2, np.float32(after) ** 2
    up = min(np.float32(after), np.float32(eta) * np.sqrt(new * (old - new) / old))
    return float(np.sqrt(max(new - up**2, np.float32(0)))), float(up)


def flow_ancestral(sigma: float, after: float, eta: float) -> tuple[float, float, float]:
    """(down, scale, up) for a flow: step to `down`, multiply by `scale`, add `up` of noise, to be at `after`."""
    down = after * (1 + (after / sigma - 1) * eta)
    scale = (1 - after) / (1 - down)
    return down, scale, math.sqrt(max(after**2 - down**2 * scale**2, 0.0))


def lagrange_integrals(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """∫ from start to end of each Lagrange basis polynomial over `nodes`: Adams-Bashforth weights."""
    weights = []
    for j, node in enumerate(nodes):
        basis = np.polynomial.Polynomial([1.0])
        for k, other in enumerate(nodes):
            if k != j:
                basis *= np.polynomial.Polynomial([-other, 1.0]) / (node - other)
        antiderivative = basis.integ()
        weights.append(float(antiderivative(end) - antiderivative(start)))
    return weights
