"""Sampling as nodes and packs ask for it: `comfy.sample.sample` and its companions. Nodes call these through here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limner.sampling import ksampler
from limner.sampling.condition_values import repeat_to_batch
from limner.sampling.ksampler import Conditioning, KSampler
from limner.sampling.latent import LatentFormat
from limner.sampling.sampler import Callback


def sample(
    model: Any,
    noise: Tensor,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Tensor,
    denoise: float = 1.0,
    disable_noise: bool = False,
    start_step: int | None = None,
    last_step: int | None = None,
    force_full_denoise: bool = False,
    noise_mask: Tensor | None = None,
    sigmas: Tensor | None = None,
    callback: Callback | None = None,
    disable_pbar: bool = False,
    seed: int | None = None,
) -> Tensor:
    """Sample with a sampler and a scheduler by name. disable_noise: the noise is all zero anyway."""
    del disable_noise
    device = getattr(model, "load_device", torch.device("cpu"))
    options = getattr(model, "model_options", None)
    run = KSampler(model, steps, device, sampler_name, scheduler, denoise, options)
    return run.sample(
        noise,
        positive,
        negative,
        cfg=cfg,
        latent_image=latent_image,
        start_step=start_step,
        last_step=last_step,
        force_full_denoise=force_full_denoise,
        denoise_mask=noise_mask,
        sigmas=sigmas,
        callback=callback,
        disable_pbar=disable_pbar,
        seed=seed,
    )


def sample_custom(
    model: Any,
    noise: Tensor,
    cfg: float,
    sampler: Any,
    sigmas: Tensor,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Tensor,
    noise_mask: Tensor | None = None,
    callback: Callback | None = None,
    disable_pbar: bool = False,
    seed: int | None = None,
) -> Tensor:
    """Sample with a sampler as a value over given sigmas."""
    device = getattr(model, "load_device", torch.device("cpu"))
    options = getattr(model, "model_options", None)
    return ksampler.sample(
        model, noise, positive, negative, cfg, device, sampler, sigmas, options,
        latent_image=latent_image, denoise_mask=noise_mask, callback=callback, disable_pbar=disable_pbar, seed=seed,
    )  # fmt: skip


def fix_empty_latent_channels(model: Any, latent_image: Tensor) -> Tensor:
    """A blank latent gets the model's channel count, and any latent its time axis.

    Raises BadInput for a latent that is not blank and has another channel count, and for one of videos where the model
    has none.
    """
    if getattr(latent_image, "is_nested", False):
        return latent_image
    latent_format = (
        model.get_model_object("latent_format") if not hasattr(model, "latent_format") else model.latent_format
    )
    channels = getattr(latent_format, "channels", None) or latent_format.latent_channels
    dims = getattr(latent_format, "dims", None) or latent_format.latent_dimensions
    if latent_image.shape[1] != channels:
        if latent_image.any():
            LatentFormat(channels=channels, dims=dims).refuse_other(latent_image)
        latent_image = repeat_to_batch(latent_image, channels, dim=1)
    LatentFormat(channels=channels, dims=dims).refuse_other(latent_image)
    return latent_image.unsqueeze(2) if dims == 3 and latent_image.ndim == 4 else latent_image
