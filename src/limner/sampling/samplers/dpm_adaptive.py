"""DPM-Solver with steps sized by a controller on the estimated error.  Lu et al. 2022, "DPM-Solver-12/23"."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.sampling.sampler import Sampler
from limner.sampling.samplers._dpm_solver import DPMSolver, with_fresh_noise
from limner.sampling.step import Denoise, Noise, Step, Steps


@dataclass
class StepSize:
    """A PID controller in the logarithm of the step.  Söderlind 2003; limiter of Hairer & Wanner."""

    step: float
    exponents: tuple[float, float, float]
    accept_safety: float
    inverse_errors: list[float] = field(default_factory=list)

    @classmethod
    def make(cls, step: float, p: float, i: float, d: float, order: float, accept_safety: float) -> StepSize:
        """Gains p, i, d for a method of this order."""
        return cls(step, ((p + i + d) / order, -(p + 2 * d) / order, d / order), accept_safety)

    def accept(self, error: float) -> bool:
        """Whether a step with this relative error counts; resizes the next one."""
        inverse = 1 / (error + 1e-8)
        self.inverse_errors = [inverse, *(self.inverse_errors[1:] or [inverse, inverse])]
        factor = math.prod(value**power for value, power in zip(self.inverse_errors, self.exponents, strict=True))
        factor = 1 + math.atan(factor - 1)
        accepted = factor >= self.accept_safety
        if accepted:
            self.inverse_errors = [inverse, inverse, self.inverse_errors[1]]
        self.step *= factor
        return accepted


def dpm_adaptive(
    denoise: Denoise,
    x: Tensor,
    sigmas: list[float],
    noise: Noise,
    *,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    pcoeff: float = 0.0,
    icoeff: float = 1.0,
    dcoeff: float = 0.0,
    accept_safety: float = 0.81,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Steps:
    """`order` predictions a try. Only the ends of `sigmas` count, and it stops at the last above 0.

    rtol, atol: error allowed, of x and absolute; h_init: first step in ln σ; the coefficients are the controller's.
    """
    if order not in {2, 3}:
        raise BadInput(f"dpm_adaptive has order 2 or 3, not {order}.")
    time, end = torch.tensor([sigmas[0], sigmas[-1] or sigmas[-2]]).log().neg()
    control = StepSize.make(abs(h_init), pcoeff, icoeff, dcoeff, 1.5 if eta else order, accept_safety)
    solver = DPMSolver(denoise)
    before = x
    while time < end - 1e-5:
        after = torch.minimum(end, time + control.step)
        reached, up = with_fresh_noise(time, after, end, eta)
        eps, denoised = solver.predict(x, time)
        if order == 2:
            low = solver.first(x, eps, time, reached)
            high, _ = solver.second(x, eps, time, reached)
        else:
            low, eps_r1 = solver.second(x, eps, time, reached, r=1 / 3)
            high = solver.third(x, eps, time, reached, eps_r1)
        allowed = (rtol * torch.maximum(low.abs(), before.abs())).clamp(min=atol)
        error = float(torch.linalg.vector_norm((low - high) / allowed)) / math.sqrt(x.numel())
        if control.accept(error):
            before = low
            x = high if not up else high + noise(math.exp(-time), math.exp(-after)) * (s_noise * up)
            time = after
        yield Step(x, math.exp(-time), denoised)
    return x


VARIANTS = (Sampler("dpm_adaptive", dpm_adaptive, noise="gaussian"),)
