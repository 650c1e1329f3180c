"""The single steps of DPM-Solver in t = -ln σ.  Lu et al. 2022, Algorithms 1, 4 and 5.

Times are float32 scalars: the adaptive controller divides by a difference so small that their rounding decides it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limner.sampling.solver import ancestral
from limner.sampling.step import Denoise


class DPMSolver:
    """Steps of order one to three; `eps` is the noise predicted at the start of the step."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise = denoise

    def predict(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """(noise, clean picture) predicted at x."""
        sigma = time.neg().exp()
        denoised = self.denoise(x, float(sigma))
        return (x - denoised) / sigma, denoised

    def step(self, order: int, x: Tensor, eps: Tensor, time: Tensor, after: Tensor) -> Tensor:
        """x at `after`."""
        if order == 1:
            return self.first(x, eps, time, after)
        return self.second(x, eps, time, after)[0] if order == 2 else self.third(x, eps, time, after)

    def first(self, x: Tensor, eps: Tensor, time: Tensor, after: Tensor) -> Tensor:
        """Exponential Euler."""
        return x - _sigma(after) * (after - time).expm1() * eps

    def second(self, x: Tensor, eps: Tensor, time: Tensor, after: Tensor, r: float = 0.5) -> tuple[Tensor, Tensor]:
        """One prediction more, at the fraction r of the way; it is returned too."""
        h = after - time
        between = time + r * h
        eps_r, _ = self.predict(x - _sigma(between) * (r * h).expm1() * eps, between)
        base = x - _sigma(after) * h.expm1() * eps
        return base - _sigma(after) / (2 * r) * h.expm1() * (eps_r - eps), eps_r

    def third(self, x: Tensor, eps: Tensor, time: Tensor, after: Tensor, eps_r1: Tensor | None = None) -> Tensor:
        """Predictions at one and two thirds; the first may be handed in."""
        h, r1, r2 = after - time, 1 / 3, 2 / 3
        one, two = time + r1 * h, time + r2 * h
        if eps_r1 is None:
            eps_r1, _ = self.predict(x - _sigma(one) * (r1 * h).expm1() * eps, one)
        grown = (r2 * h).expm1()
        x2 = x - _sigma(two) * grown * eps - _sigma(two) * (r2 / r1) * (grown / (r2 * h) - 1) * (eps_r1 - eps)
        eps_r2, _ = self.predict(x2, two)
        grown = h.expm1()
        return x - _sigma(after) * grown * eps - _sigma(after) / r2 * (grown / h - 1) * (eps_r2 - eps)


def with_fresh_noise(time: Tensor, after: Tensor, end: Tensor, eta: float) -> tuple[Tensor, float]:
    """(reached, up): step to `reached` instead of `after`, then add `up` of noise."""
    if not eta:
        return after, 0.0
    down, _ = ancestral(float(_sigma(time)), float(_sigma(after)), eta)
    reached = torch.minimum(end, torch.tensor(down).log().neg())
    return reached, math.sqrt(max(float(_sigma(after)) ** 2 - float(_sigma(reached)) ** 2, 0.0))


def _sigma(time: Tensor) -> Tensor:
    return time.neg().exp()
