"""Sampling from start to end: what the sampler nodes call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.sampling import entry, samplers, schedulers
from limner.sampling import noise as noise_sources
from limner.sampling.ksampler import part_of, steps_sigmas
from limner.sampling.sampler import Callback, Sampler

if TYPE_CHECKING:
    from limner.sampling.protocols import DiffusionModel

__all__ = ["fix_empty_latent_channels", "ksample", "part_of", "sample", "steps_sigmas"]

Conditioning = Sequence[Sequence[Any]]


def sample(
    model: DiffusionModel,
    noise: Tensor,
    positive: Conditioning,
    negative: Conditioning,
    cfg: float,
    sampler: Sampler,
    sigmas: Tensor,
    latent_image: Tensor,
    denoise_mask: Tensor | None = None,
    callback: Callback | None = None,
    seed: int | None = None,
) -> Tensor:
    """Guided sampling over the given sigmas. Latents are in autoencoder space and come back on the CPU."""
    return entry.sample_custom(
        model, noise, cfg, sampler, sigmas, positive, negative, latent_image, denoise_mask, callback, seed=seed
    )


def fix_empty_latent_channels(model: DiffusionModel, latent: Tensor) -> Tensor:
    """A blank latent gets the model's channel count, and any latent its time axis."""
    return entry.fix_empty_latent_channels(model, latent)


def ksample(
    model: DiffusionModel,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Conditioning,
    negative: Conditioning,
    latent: dict[str, Any],
    denoise: float = 1.0,
    start_step: int | None = None,
    end_step: int | None = None,
    force_full_denoise: bool = False,
    disable_noise: bool = False,
    callback: Callback | None = None,
) -> dict[str, Any]:
    """What KSampler and KSamplerAdvanced do: a LATENT in, a LATENT out with the same other keys.

    Honours the latent's `noise_mask` and `batch_index`. Raises BadInput when the channels do not fit the model.
    """
    samples = entry.fix_empty_latent_channels(model, latent["samples"])
    if disable_noise:
        noise = torch.zeros(samples.shape, dtype=samples.dtype)
    else:
        noise = noise_sources.prepare_noise(samples, seed, latent.get("batch_index"))
    if sampler_name not in samplers.SAMPLERS:
        samplers.get_sampler(sampler_name)  # raises NotFound, unless a pack brought one without saying so
        samplers.SAMPLERS.append(sampler_name)
    if scheduler not in schedulers.SCHEDULERS:
        raise BadInput(f"No scheduler is called {scheduler!r}.", do=f"Use one of {', '.join(schedulers.SCHEDULERS)}.")
    samples = entry.sample(
        model,
        noise,
        steps,
        cfg,
        sampler_name,
        scheduler,
        positive,
        negative,
        samples,
        denoise=denoise,
        disable_noise=disable_noise,
        start_step=start_step,
        last_step=end_step,
        force_full_denoise=force_full_denoise,
        noise_mask=latent.get("noise_mask"),
        callback=callback,
        seed=seed,
    )
    return {**latent, "samples": samples}
