"""Schedulers: how the noise levels of N steps are spread. Each returns descending sigmas that end in 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from limner.errors import BadInput
from limner.sampling.model_sampling import ModelSampling, as_sampling

SCHEDULERS = [
    "simple",
    "sgm_uniform",
    "karras",
    "exponential",
    "ddim_uniform",
    "beta",
    "normal",
    "linear_quadratic",
    "kl_optimal",
]
"""The names that nodes offer. Packs that bring a scheduler add its name here."""


def simple(sampling: ModelSampling, steps: int) -> list[float]:
    """Every (table length / steps)-th level of the table."""
    table = sampling.sigmas
    stride = len(table) / steps
    return [float(table[-(1 + int(k * stride))]) for k in range(steps)] + [0.0]


def normal(sampling: ModelSampling, steps: int) -> list[float]:
    """Levels at even network times, both ends included."""
    times = _times(sampling, steps)
    if math.isclose(float(sampling.sigma(times[-1])), 0, abs_tol=1e-5):
        return cast("list[float]", sampling.sigma(_times(sampling, steps + 1)).tolist())
    return [*sampling.sigma(times).tolist(), 0.0]


def sgm_uniform(sampling: ModelSampling, steps: int) -> list[float]:
    """Levels at even network times, without the last."""
    return [*sampling.sigma(_times(sampling, steps + 1)[:-1]).tolist(), 0.0]


def _times(sampling: ModelSampling, count: int) -> Tensor:
    start, end = sampling.timestep(sampling.sigmas[-1]), sampling.timestep(sampling.sigmas[0])
    return torch.linspace(float(start), float(end), count)


def ddim_uniform(sampling: ModelSampling, steps: int) -> list[float]:
    """Every s-th level from the second on: may give more or fewer than `steps` and does not start at the top."""
    table = sampling.sigmas
    last = [] if math.isclose(float(table[1]), 0, abs_tol=1e-5) else [0.0]
    stride = max(len(table) // (steps if last else steps + 1), 1)
    return [*table[1::stride].flip(0).tolist(), *last]


def beta(sampling: ModelSampling, steps: int, alpha: float = 0.6, beta: float = 0.6) -> list[float]:
    """Table positions at the quantiles of a beta distribution.  Lee et al. 2024, "Beta Sampling is All You Need"."""
    from scipy.special import betaincinv  # noqa: PLC0415 - a tenth of a second to import

    table = sampling.sigmas
    quantiles = betaincinv(alpha, beta, 1 - np.linspace(0, 1, steps, endpoint=False))
    positions = np.rint(quantiles * (len(table) - 1)).astype(int).tolist()
    kept = [now for before, now in pairwise([None, *positions]) if now != before]
    return [*(float(table[position]) for position in kept), 0.0]


def linear_quadratic(sampling: ModelSampling, steps: int, threshold: float = 0.025) -> list[float]:
    """Half of the steps in the first 2.5 % of the way, then quadratic.  Polyak et al. 2024 (Movie Gen)."""
    if steps == 1:
        return [sampling.sigma_max, 0.0]
    linear_steps = steps // 2
    quadratic_steps = steps - linear_steps
    linear = [k * threshold / linear_steps for k in range(linear_steps)]
    difference = linear_steps - threshold * steps
    square = difference / (linear_steps * quadratic_steps**2)
    slope = threshold / linear_steps - 2 * difference / quadratic_steps**2
    constant = square * linear_steps**2
    quadratic = [square * k**2 + slope * k + constant for k in range(linear_steps, steps)]
    return [(1 - done) * sampling.sigma_max for done in [*linear, *quadratic, 1.0]]


def karras_sigmas(sigma_min: float, sigma_max: float, steps: int, rho: float = 7.0) -> list[float]:
    """Even in sigma^(1/rho).  Karras et al. 2022, eq. 5."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    part = torch.linspace(0, 1, steps)  # float32: a last-bit difference moves the Brownian noise of SDE samplers
    return [*((high + part * (low - high)) ** rho).tolist(), 0.0]


def exponential_sigmas(sigma_min: float, sigma_max: float, steps: int) -> list[float]:
    """Even in ln sigma."""
    return [*torch.linspace(math.log(sigma_max), math.log(sigma_min), steps).exp().tolist(), 0.0]


def kl_optimal_sigmas(sigma_min: float, sigma_max: float, steps: int) -> list[float]:
    """Even in atan sigma.  Sabour et al. 2024, "Align Your Steps", eq. 28."""
    part = torch.tensor(
        _ramp(steps)
    )  # float32, as published schedules are: it decides the first level when it is large
    low, high = torch.tensor(sigma_min).atan(), torch.tensor(sigma_max).atan()
    return [*(part * low + (1 - part) * high).tan().tolist(), 0.0]


def _ramp(steps: int) -> list[float]:
    return [k / max(steps - 1, 1) for k in range(steps)]


def _between_ends(formula: Callable[[float, float, int], list[float]]) -> Callable[[ModelSampling, int], list[float]]:
    return lambda sampling, steps: formula(sampling.sigma_min, sampling.sigma_max, steps)


class SchedulerHandler(NamedTuple):
    """A scheduler. use_ms: it is called with (model_sampling, steps), else with n, sigma_min and sigma_max."""

    handler: Callable[..., Any]
    use_ms: bool = True


SCHEDULER_HANDLERS: dict[str, SchedulerHandler] = {
    "simple": SchedulerHandler(simple),
    "sgm_uniform": SchedulerHandler(sgm_uniform),
    "karras": SchedulerHandler(_between_ends(karras_sigmas)),
    "exponential": SchedulerHandler(_between_ends(exponential_sigmas)),
    "ddim_uniform": SchedulerHandler(ddim_uniform),
    "beta": SchedulerHandler(beta),
    "normal": SchedulerHandler(normal),
    "linear_quadratic": SchedulerHandler(linear_quadratic),
    "kl_optimal": SchedulerHandler(_between_ends(kl_optimal_sigmas)),
}
"""How each scheduler is computed. Packs that bring one add it here."""


def calculate_sigmas(model_sampling: Any, scheduler_name: str, steps: int) -> Tensor:
    """The sigmas of `steps` steps as a float32 tensor on the CPU, ending in 0.

    Raises BadInput when there is no such scheduler or no step.
    """
    found = SCHEDULER_HANDLERS.get(scheduler_name)
    if found is None:
        raise BadInput(f"No scheduler is called {scheduler_name!r}.", do=f"Use one of {', '.join(SCHEDULERS)}.")
    if steps < 1:
        raise BadInput(f"A schedule needs at least one step, not {steps}.")
    sampling = as_sampling(model_sampling)
    if found.use_ms:
        sigmas = found.handler(sampling, steps)
    else:
        sigmas = found.handler(n=steps, sigma_min=sampling.sigma_min, sigma_max=sampling.sigma_max)
    return sigmas.float().cpu() if isinstance(sigmas, Tensor) else torch.tensor(sigmas, dtype=torch.float32)
