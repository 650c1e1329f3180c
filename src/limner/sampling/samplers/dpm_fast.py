"""DPM-Solver in single steps of order three, with a fixed number of predictions.  Lu et al. 2022, DPM-Solver-fast."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limner.sampling.sampler import Sampler
from limner.sampling.samplers._dpm_solver import DPMSolver, with_fresh_noise
from limner.sampling.step import Denoise, Noise, Step, Steps


def dpm_fast(
    denoise: Denoise, x: Tensor, sigmas: list[float], noise: Noise, *, eta: float = 0.0, s_noise: float = 1.0
) -> Steps:
    """As many predictions as there are steps. Only the ends of `sigmas` count, and it stops at the last above 0."""
    lowest = sigmas[-1] or sigmas[-2]
    evaluations = len(sigmas) - 1
    start, end = torch.tensor([sigmas[0], lowest]).log().neg()
    blocks = evaluations // 3 + 1
    rest = evaluations % 3
    orders = [3] * (blocks - 1) + [rest] if rest else [3] * (blocks - 2) + [2, 1]
    times = torch.linspace(float(start), float(end), blocks + 1)
    solver = DPMSolver(denoise)
    for order, time, after in zip(orders, times[:-1], times[1:], strict=True):
        sigma, sigma_after = math.exp(-time), math.exp(-after)
        reached, up = with_fresh_noise(time, after, end, eta)
        eps, denoised = solver.predict(x, time)
        yield Step(x, sigma, denoised)
        x = solver.step(order, x, eps, time, reached)
        if up:
            x = x + noise(sigma, sigma_after) * (up * s_noise)
    return x


VARIANTS = (Sampler("dpm_fast", dpm_fast, noise="gaussian"),)
