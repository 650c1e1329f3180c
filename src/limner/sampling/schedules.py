"""Schedules by formula or table: what scheduler nodes offer beside KSampler's nine. Sigmas fall; float32 on the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from limner.errors import BadInput
from limner.sampling import schedulers
from limner.sampling.model_sampling import ModelSampling

# Sabour et al. 2024, "Align Your Steps": the published ten-step schedules of three model families.
ALIGN_YOUR_STEPS: dict[str, tuple[float, ...]] = {
    "SD1": (
        14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092,
        0.9642583904, 0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582,
    ),
    "SDXL": (
        14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141,
        0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582,
    ),
    "SVD": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}  # fmt: skip
# Pei et al. 2025, "Optimal Stepsize for Diffusion Sampling": searched schedules of three flow models.
OPTIMAL_STEPS: dict[str, tuple[float, ...]] = {
    "FLUX": (0.9968, 0.9886, 0.9819, 0.975, 0.966, 0.9471, 0.9158, 0.8287, 0.5512, 0.2808, 0.001),
    "Wan": (
        1.0, 0.997, 0.995, 0.993, 0.991, 0.989, 0.987, 0.985, 0.98, 0.975, 0.973, 0.968, 0.96, 0.946, 0.927,
        0.902, 0.864, 0.776, 0.539, 0.208, 0.001,
    ),
    "Chroma": (
        0.992, 0.99, 0.988, 0.985, 0.982, 0.978, 0.973, 0.968, 0.961, 0.953, 0.943, 0.931, 0.917, 0.9, 0.881,
        0.858, 0.832, 0.802, 0.769, 0.731, 0.69, 0.646, 0.599, 0.55, 0.501, 0.451, 0.402, 0.355, 0.311, 0.27,
        0.232, 0.199, 0.169, 0.143, 0.12, 0.101, 0.084, 0.07, 0.058, 0.048, 0.001,
    ),
}  # fmt: skip


def part_of_steps(sampling: ModelSampling, scheduler: str, steps: int, denoise: float) -> Tensor:
    """The last `steps` of a schedule of steps / denoise; none for denoise 0."""
    if denoise <= 0:
        return torch.zeros(0)
    total = steps if denoise >= 1 else int(steps / denoise)
    return schedulers.calculate_sigmas(sampling, scheduler, total)[-(steps + 1) :]


def polyexponential(sigma_min: float, sigma_max: float, steps: int, rho: float) -> Tensor:
    """ln sigma falls as the power rho of an even ramp; rho 1 is exponential."""
    low, high = math.log(_positive(sigma_min)), math.log(_positive(sigma_max))
    ramp = torch.linspace(1, 0, steps) ** rho
    return torch.cat([(ramp * (high - low) + low).exp(), torch.zeros(1)])


def laplace(sigma_min: float, sigma_max: float, steps: int, mu: float, beta: float) -> Tensor:
    """ln sigma at the quantiles of a Laplace distribution, clipped; it does not end in 0.  Hang et al. 2024."""
    off_middle = 0.5 - torch.linspace(0, 1, steps)
    logarithm = mu - beta * off_middle.sign() * (1 - 2 * off_middle.abs() + 1e-5).log()
    return logarithm.exp().clamp(sigma_min, sigma_max)


def variance_preserving(steps: int, beta_d: float, beta_min: float, eps_s: float) -> Tensor:
    """Levels at even times of the continuous variance-preserving process.  Song et al. 2021, eq. 33."""
    time = torch.linspace(1, eps_s, steps)
    return torch.cat([(beta_d * time**2 / 2 + beta_min * time).expm1().sqrt(), torch.zeros(1)])


def turbo(sampling: ModelSampling, steps: int, denoise: float) -> Tensor:
    """The times 999, 899 … that adversarial distillation was trained at.  Sauer et al. 2023."""
    start = 10 - int(10 * denoise)
    times = torch.arange(999, -1, -100)[start : start + steps]
    return torch.cat([sampling.sigma(times), torch.zeros(1)])


def tabulated(table: Sequence[float], steps: int, denoise: float) -> Tensor:
    """The end of a searched schedule of `steps` steps, of which round(steps · denoise) are taken; its last is 0."""
    if denoise <= 0:
        return torch.zeros(0)
    sigmas = np.asarray(table) if len(table) == steps + 1 else resampled(table, steps + 1)
    kept = torch.tensor(sigmas[-(round(steps * denoise) + 1) :], dtype=torch.float32)
    kept[-1] = 0
    return kept


def resampled(table: Sequence[float], count: int) -> np.ndarray:
    """A schedule with another number of levels, between them linear in ln sigma."""
    levels = np.log(np.asarray(table)[::-1])
    places = np.linspace(0, 1, count)
    found: np.ndarray = np.exp(np.interp(places, np.linspace(0, 1, len(levels)), levels))[::-1].copy()
    return found


def token_shift(tokens: float, low: tuple[int, float], high: tuple[int, float]) -> float:
    """A flow's shift, linear in how many tokens a latent has; low, high: (tokens, shift) of two points of the line."""
    slope = (high[1] - low[1]) / (high[0] - low[0])
    return tokens * slope + low[1] - slope * low[0]


def shifted_linear(steps: int, shift: float, terminal: float | None) -> Tensor:
    """An even flow schedule moved by e^shift; terminal: its last level above 0, to which the others are stretched."""
    even = torch.linspace(1, 0, steps + 1)
    moved = math.exp(shift) / (math.exp(shift) + (1 / even - 1))
    sigmas = torch.where(even != 0, moved, torch.zeros(()))
    if terminal is not None:
        kept = sigmas != 0
        clean = 1 - sigmas[kept]
        sigmas[kept] = 1 - clean / (clean[-1] / (1 - terminal))
    return sigmas


SPACINGS = ("linear", "cosine", "sine")


def extended(sigmas: Tensor, steps: int, start: float, end: float, spacing: str) -> Tensor:
    """`steps` levels in place of one between neighbours, wherever end <= sigma <= start (below 0: no bound).

    spacing: linear; cosine, denser next to the lower level; sine, denser next to the higher.
    """
    parts = torch.linspace(0, 1, steps + 1)[1:-1]
    if spacing == "cosine":
        parts = (parts * math.pi / 2).sin()
    elif spacing == "sine":
        parts = 1 - (parts * math.pi / 2).cos()
    bound = math.inf if start < 0 else start
    found: list[Tensor] = []
    for i in range(len(sigmas) - 1):
        found.append(sigmas[i : i + 1])
        if end <= float(sigmas[i]) <= bound:
            found.append(sigmas[i] + parts * (sigmas[i + 1] - sigmas[i]))
    return torch.cat([*found, sigmas[-1:]])


def _positive(sigma: float) -> float:
    if sigma <= 0:
        raise BadInput("A schedule in ln sigma needs sigmas above 0.", do="Give a sigma_min above 0.")
    return sigma
