"""Sampling: noise to latent."""

from __future__ import annotations

from typing import Annotated, Any

from limner.graph import Choice, Conditioning, Float, Int, Latent, Run, node
from limner.nodes.kinds import MODEL
from limner.nodes.progress import step_callback
from limner.sampling.run import ksample
from limner.sampling.samplers import SAMPLERS
from limner.sampling.schedulers import SCHEDULERS

Seed = Annotated[int, Int(min=0, max=2**64 - 1, control_after_generate=True)]
Steps = Annotated[int, Int(min=1, max=10000)]
Guidance = Annotated[float, Float(min=0.0, max=100.0, step=0.1, round=0.01)]
SamplerName = Annotated[str, Choice(SAMPLERS)]
Scheduler = Annotated[str, Choice(SCHEDULERS)]
Denoise = Annotated[float, Float(min=0.0, max=1.0, step=0.01)]
StepNumber = Annotated[int, Int(min=0, max=10000)]


@node("KSampler", category="sampling", title="KSampler")
def ksampler(
    run: Run,
    *,
    model: MODEL,
    seed: Seed = 0,
    steps: Steps = 20,
    cfg: Guidance = 8.0,
    sampler_name: SamplerName,
    scheduler: Scheduler,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    denoise: Denoise = 1.0,
) -> Latent:
    """A latent sampled with a model, towards the positive conditioning and away from the negative.

    model: the diffusion model.
    seed: what the noise is drawn from; the same seed gives the same picture.
    steps: how many steps are taken.
    cfg: how strongly the conditioning is followed (classifier-free guidance).
    sampler_name: how a step is taken.
    scheduler: how the noise levels are spread over the steps.
    positive: what the picture shows.
    negative: what it does not show.
    latent_image: the latent to start from.
    denoise: how much of the latent is made anew; 1 is all of it.
    """
    return ksample(
        model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image,
        denoise=denoise, callback=step_callback(run, model),
    )  # fmt: skip


@node("KSamplerAdvanced", category="sampling", title="KSampler (Advanced)")
def ksampler_advanced(
    run: Run,
    *,
    model: MODEL,
    add_noise: Annotated[str, Choice(("enable", "disable"))],
    noise_seed: Seed = 0,
    steps: Steps = 20,
    cfg: Guidance = 8.0,
    sampler_name: SamplerName,
    scheduler: Scheduler,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    start_at_step: StepNumber = 0,
    end_at_step: StepNumber = 10000,
    return_with_leftover_noise: Annotated[str, Choice(("disable", "enable"))],
) -> Latent:
    """A part of the steps of a sampling: from one step to another, with or without noise at its start and end."""
    options: dict[str, Any] = {
        "disable_noise": add_noise == "disable",
        "start_step": start_at_step,
        "end_step": end_at_step,
        "force_full_denoise": return_with_leftover_noise == "disable",
    }
    return ksample(
        model, noise_seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image,
        denoise=1.0, callback=step_callback(run, model), **options,
    )  # fmt: skip
