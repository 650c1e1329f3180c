"""Sampling from start to end: what the sampler nodes call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.sampling.condition_values import repeat_to_batch
from limner.sampling.guiders import CFGGuider
from limner.sampling.model_sampling import ModelSampling
from limner.sampling.noise import prepare_noise
from limner.sampling.sampler import Callback, Sampler
from limner.sampling.samplers import get_sampler
from limner.sampling.schedulers import calculate_sigmas

if TYPE_CHECKING:
    from limner.sampling.protocols import DiffusionModel

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
    guider = CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider.sample(noise, latent_image, sampler, sigmas, denoise_mask, callback, seed=seed)


def steps_sigmas(sampling: ModelSampling, sampler: Sampler, scheduler: str, steps: int, denoise: float = 1.0) -> Tensor:
    """KSampler's sigmas: for denoise below 1 the end of a longer schedule; empty for denoise 0."""
    if denoise <= 0:
        return torch.zeros(0)
    total = steps if denoise > 0.9999 else int(steps / denoise)
    if sampler.discards_penultimate:
        sigmas = calculate_sigmas(sampling, scheduler, total + 1)
        sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
    else:
        sigmas = calculate_sigmas(sampling, scheduler, total)
    return sigmas if denoise > 0.9999 else sigmas[-(steps + 1) :]


def part_of(
    sigmas: Tensor, start_step: int | None = None, end_step: int | None = None, force_full_denoise: bool = False
) -> Tensor | None:
    """KSamplerAdvanced's part of a schedule; None when there is nothing to do.

    force_full_denoise: a run that ends early jumps to a clean picture instead of leaving noise in.
    """
    if end_step is not None and end_step < len(sigmas) - 1:
        sigmas = sigmas[: end_step + 1].clone()
        if force_full_denoise:
            sigmas[-1] = 0
    if start_step is not None:
        if start_step >= len(sigmas) - 1:
            return None
        sigmas = sigmas[start_step:]
    return sigmas


def fix_empty_latent_channels(model: DiffusionModel, latent: Tensor) -> Tensor:
    """A blank latent gets the model's channel count, and any latent its time axis."""
    latent_format = model.latent_format
    if latent.shape[1] != latent_format.channels and not latent.any():
        latent = repeat_to_batch(latent, latent_format.channels, dim=1)
    if latent_format.dims == 3 and latent.ndim == 4:
        latent = latent.unsqueeze(2)
    return latent


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
    samples = fix_empty_latent_channels(model, latent["samples"])
    wanted = model.latent_format.channels
    if samples.shape[1] != wanted:
        raise BadInput(
            f"The latent has {samples.shape[1]} channels, this model's have {wanted}.",
            why="It was encoded for another model family.",
            do="Encode the picture with this model's VAE, or start from an empty latent.",
        )
    if disable_noise:
        noise = torch.zeros(samples.shape, dtype=samples.dtype)
    else:
        noise = prepare_noise(samples, seed, latent.get("batch_index"))
    sampler = get_sampler(sampler_name)
    sigmas = part_of(
        steps_sigmas(model.sampling, sampler, scheduler, steps, denoise), start_step, end_step, force_full_denoise
    )
    if sigmas is not None:
        mask = latent.get("noise_mask")
        samples = sample(model, noise, positive, negative, cfg, sampler, sigmas, samples, mask, callback, seed)
    return {**latent, "samples": samples}
