"""Sigmas: schedules as values, and what is done with them."""

from __future__ import annotations

from functools import partial
from typing import Annotated, NamedTuple

import torch

from limner.graph import Choice, Float, Int, Latent, Sigmas, node
from limner.nodes.kinds import MODEL
from limner.sampling import schedules
from limner.sampling.schedulers import SCHEDULERS, exponential_sigmas, karras_sigmas
from limner.sampling.schedulers import beta as beta_levels

Steps = Annotated[int, Int(min=1, max=10000)]
Denoise = Annotated[float, Float(min=0.0, max=1.0, step=0.01)]
Level = Annotated[float, Float(min=0.0, max=5000.0, step=0.01, round=False)]
Rho = Annotated[float, Float(min=0.0, max=100.0, step=0.01, round=False)]
Shape = Annotated[float, Float(min=0.0, max=50.0, step=0.01, round=False)]
Shift = Annotated[float, Float(min=0.0, max=100.0, step=0.01)]

scheduler_node = partial(
    node, category="sampling/custom_sampling/schedulers", python_module="comfy_extras.nodes_custom_sampler"
)
sigma_node = partial(
    node, category="sampling/custom_sampling/sigmas", python_module="comfy_extras.nodes_custom_sampler"
)


class Halves(NamedTuple):
    """The noisy and the clean part of a schedule."""

    high_sigmas: Sigmas
    low_sigmas: Sigmas


@scheduler_node("BasicScheduler", title="BasicScheduler")
def basic(
    model: MODEL, scheduler: Annotated[str, Choice(SCHEDULERS)], steps: Steps = 20, denoise: Denoise = 1.0
) -> Sigmas:
    """A schedule of the model's noise levels; below denoise 1 the end of a longer one."""
    return schedules.part_of_steps(model.sampling, scheduler, steps, denoise)


@scheduler_node("KarrasScheduler", title="KarrasScheduler")
def karras(steps: Steps = 20, sigma_max: Level = 14.614642, sigma_min: Level = 0.0291675, rho: Rho = 7.0) -> Sigmas:
    """Even in sigma^(1/rho)."""
    return torch.tensor(karras_sigmas(sigma_min, sigma_max, steps, rho))


@scheduler_node("ExponentialScheduler", title="ExponentialScheduler")
def exponential(steps: Steps = 20, sigma_max: Level = 14.614642, sigma_min: Level = 0.0291675) -> Sigmas:
    """Even in ln sigma."""
    return torch.tensor(exponential_sigmas(sigma_min, sigma_max, steps))


@scheduler_node("PolyexponentialScheduler", title="PolyexponentialScheduler")
def polyexponential(
    steps: Steps = 20, sigma_max: Level = 14.614642, sigma_min: Level = 0.0291675, rho: Rho = 1.0
) -> Sigmas:
    """A power of an even ramp in ln sigma."""
    return schedules.polyexponential(sigma_min, sigma_max, steps, rho)


@scheduler_node("LaplaceScheduler", title="LaplaceScheduler")
def laplace(
    steps: Steps = 20,
    sigma_max: Level = 14.614642,
    sigma_min: Level = 0.0291675,
    mu: Annotated[float, Float(min=-10.0, max=10.0, step=0.1, round=False)] = 0.0,
    beta: Annotated[float, Float(min=0.0, max=10.0, step=0.1, round=False)] = 0.5,
) -> Sigmas:
    """Densest around exp(mu), more so the smaller beta is; it does not end in 0."""
    return schedules.laplace(sigma_min, sigma_max, steps, mu, beta)


@scheduler_node("VPScheduler", title="VPScheduler")
def variance_preserving(
    steps: Steps = 20,
    beta_d: Level = 19.9,
    beta_min: Level = 0.1,
    eps_s: Annotated[float, Float(min=0.0, max=1.0, step=0.0001, round=False)] = 0.001,
) -> Sigmas:
    """Even times of the continuous variance-preserving process, from 1 down to eps_s."""
    return schedules.variance_preserving(steps, beta_d, beta_min, eps_s)


@scheduler_node("BetaSamplingScheduler", title="BetaSamplingScheduler")
def beta_sampling(model: MODEL, steps: Steps = 20, alpha: Shape = 0.6, beta: Shape = 0.6) -> Sigmas:
    """The model's levels at the quantiles of a beta distribution."""
    return torch.tensor(beta_levels(model.sampling, steps, alpha, beta))


@scheduler_node("SDTurboScheduler", title="SDTurboScheduler")
def turbo(
    model: MODEL,
    steps: Annotated[int, Int(min=1, max=10)] = 1,
    denoise: Annotated[float, Float(min=0, max=1.0, step=0.01)] = 1.0,
) -> Sigmas:
    """The levels that distilled turbo models were trained at."""
    return schedules.turbo(model.sampling, steps, denoise)


@scheduler_node("AlignYourStepsScheduler", title="", python_module="comfy_extras.nodes_align_your_steps", style="v3")
def align_your_steps(
    model_type: Annotated[str, Choice(tuple(schedules.ALIGN_YOUR_STEPS))], steps: Steps = 10, denoise: Denoise = 1.0
) -> Sigmas:
    """A schedule that was optimised for a family of models.

    model_type: which family.
    steps: how many steps; other numbers than ten are interpolated.
    denoise: which part of the steps, from the clean end, is taken.
    """
    return schedules.tabulated(schedules.ALIGN_YOUR_STEPS[model_type], steps, denoise)


@scheduler_node("OptimalStepsScheduler", title="", python_module="comfy_extras.nodes_optimalsteps", style="v3")
def optimal_steps(
    model_type: Annotated[str, Choice(tuple(schedules.OPTIMAL_STEPS))],
    steps: Annotated[int, Int(min=3, max=1000)] = 20,
    denoise: Denoise = 1.0,
) -> Sigmas:
    """A schedule that was searched for a model.

    model_type: which model.
    steps: how many steps; other numbers than the table's are interpolated.
    denoise: which part of the steps, from the clean end, is taken.
    """
    return schedules.tabulated(schedules.OPTIMAL_STEPS[model_type], steps, denoise)


@scheduler_node("LTXVScheduler", title="", python_module="comfy_extras.nodes_lt", style="v3")
def ltxv(
    steps: Steps = 20,
    max_shift: Shift = 2.05,
    base_shift: Shift = 0.95,
    *,
    stretch: bool = True,
    terminal: Annotated[float, Float(min=0.0, max=0.99, step=0.01)] = 0.1,
    latent: Latent | None = None,
) -> Sigmas:
    """A flow schedule shifted towards noise the more tokens the latent has.

    steps: how many steps.
    max_shift: the shift at 4096 tokens.
    base_shift: the shift at 1024 tokens.
    stretch: whether the levels are stretched to end, above 0, at `terminal`.
    terminal: the last level above 0 when stretched.
    latent: what is counted; 4096 tokens without one.
    """
    shift = schedules.token_shift(token_count(latent), (1024, base_shift), (4096, max_shift))
    return schedules.shifted_linear(steps, shift, terminal if stretch else None)


def token_count(latent: Latent | None) -> int:
    """How many cells a latent has, frames included; 4096 without one."""
    return 4096 if latent is None else latent["samples"].shape[2:].numel()


@sigma_node("SplitSigmas", title="SplitSigmas")
def split(sigmas: Sigmas, step: Annotated[int, Int(min=0, max=10000)] = 0) -> Halves:
    """The levels before and after a step; the level of the step belongs to both."""
    return Halves(sigmas[: step + 1], sigmas[step:])


@sigma_node("SplitSigmasDenoise", title="SplitSigmasDenoise")
def split_denoise(sigmas: Sigmas, denoise: Denoise = 1.0) -> Halves:
    """The last part of a schedule, `denoise` of its steps, and what is before it."""
    kept = round(max(len(sigmas) - 1, 0) * denoise)
    return Halves(sigmas[: len(sigmas) - kept] if kept else sigmas[:0], sigmas[-(kept + 1) :])


@sigma_node("FlipSigmas", title="FlipSigmas")
def flip(sigmas: Sigmas) -> Sigmas:
    """The levels the other way round, for going from a picture to noise; a first 0 becomes 0.0001."""
    turned = sigmas.flip(0)
    if len(turned) and turned[0] == 0:
        turned[0] = 0.0001
    return turned


@sigma_node("SetFirstSigma", title="SetFirstSigma")
def set_first(
    sigmas: Sigmas, sigma: Annotated[float, Float(min=0.0, max=20000.0, step=0.001, round=False)] = 136.0
) -> Sigmas:
    """The same levels with another first one."""
    changed = sigmas.clone()
    changed[:1] = sigma
    return changed


@sigma_node("ExtendIntermediateSigmas", title="ExtendIntermediateSigmas")
def extend_intermediate(
    sigmas: Sigmas,
    steps: Annotated[int, Int(min=1, max=100)] = 2,
    start_at_sigma: Annotated[float, Float(min=-1.0, max=20000.0, step=0.01, round=False)] = -1.0,
    end_at_sigma: Annotated[float, Float(min=0.0, max=20000.0, step=0.01, round=False)] = 12.0,
    *,
    spacing: Annotated[str, Choice(schedules.SPACINGS)],
) -> Sigmas:
    """More steps between the levels from `start_at_sigma` (-1: the first) down to `end_at_sigma`."""
    return schedules.extended(sigmas, steps, start_at_sigma, end_at_sigma, spacing)


@sigma_node("SamplingPercentToSigma", title="SamplingPercentToSigma", output_names=("sigma_value",))
def percent_to_sigma(
    model: MODEL,
    sampling_percent: Annotated[float, Float(min=0.0, max=1.0, step=0.0001)] = 0.0,
    *,
    return_actual_sigma: bool = False,
) -> float:
    """The noise level at a part of the way.

    model: whose noise levels.
    sampling_percent: 0 is the beginning, 1 the end.
    return_actual_sigma: at the ends, the model's own levels instead of those beyond them that ranges are compared with.
    """
    if return_actual_sigma and sampling_percent in (0.0, 1.0):
        return model.sampling.sigma_max if sampling_percent == 0.0 else model.sampling.sigma_min
    return model.sampling.percent_to_sigma(sampling_percent)
