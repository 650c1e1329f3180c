"""Sampling with a sampler and a scheduler by name: what packs call as `comfy.samplers.KSampler`, `.sample`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from limner.sampling import guiders, samplers, schedulers
from limner.sampling.sampler import Callback, Sampler
from limner.sampling.samplers import SAMPLERS
from limner.sampling.schedulers import SCHEDULERS

Conditioning = Sequence[Sequence[Any]]
DISCARDING = ("dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2")


def sample(
    model: Any,
    noise: Tensor,
    positive: Conditioning,
    negative: Conditioning,
    cfg: float,
    device: Any,
    sampler: Any,
    sigmas: Tensor,
    model_options: dict[str, Any] | None = None,
    latent_image: Tensor | None = None,
    denoise_mask: Tensor | None = None,
    callback: Callback | None = None,
    disable_pbar: bool = False,
    seed: int | None = None,
) -> Tensor:
    """Guided sampling over the given sigmas. Latents are in autoencoder space and come back on the CPU.

    model_options: added to the model's own. device: where the model is anyway.
    """
    del device
    guider = guiders.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    if model_options:
        guider.model_options = {**guider.model_options, **model_options}
    latent = torch.zeros_like(noise) if latent_image is None else latent_image
    return guider.sample(noise, latent, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)


class _Lists(type):
    """So that lists which a pack assigns are taken over into those that nodes offer."""

    def __setattr__(cls, name: str, value: Any) -> None:
        current = getattr(cls, name, None)
        if name in ("SAMPLERS", "SCHEDULERS") and isinstance(current, list) and value is not current:
            current[:] = list(value)
            return
        super().__setattr__(name, value)

    def __iter__(cls) -> Iterator[str]:
        return iter(SAMPLERS)


class KSampler(metaclass=_Lists):
    """A sampler and a scheduler by name for a model; a name that is not offered means the first of its list.

    SAMPLERS, SCHEDULERS: the names that nodes offer, which packs add to.
    """

    SAMPLERS = SAMPLERS
    SCHEDULERS = SCHEDULERS
    DISCARD_PENULTIMATE_SIGMA_SAMPLERS: ClassVar[set[str]] = set(DISCARDING)

    def __init__(
        self,
        model: Any,
        steps: int,
        device: Any,
        sampler: str | None = None,
        scheduler: str | None = None,
        denoise: float | None = None,
        model_options: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.device = device
        self.sampler = sampler if sampler in self.SAMPLERS else self.SAMPLERS[0]
        self.scheduler = scheduler if scheduler in self.SCHEDULERS else self.SCHEDULERS[0]
        self.denoise = denoise
        self.model_options = model_options or {}
        self.steps = steps
        self.sigmas = torch.zeros(0)
        self.set_steps(steps, denoise)

    def calculate_sigmas(self, steps: int) -> Tensor:
        """The schedule of so many steps; some samplers make do without the last level but one."""
        discard = self.sampler in self.DISCARD_PENULTIMATE_SIGMA_SAMPLERS
        sampling = self.model.get_model_object("model_sampling") if hasattr(self.model, "get_model_object") else None
        found: Tensor = schedulers.calculate_sigmas(
            self.model.sampling if sampling is None else sampling, self.scheduler, steps + discard
        )
        return torch.cat([found[:-2], found[-1:]]) if discard else found

    def set_steps(self, steps: int, denoise: float | None = None) -> None:
        """So many steps: for denoise below 1 the end of a longer schedule; none for denoise 0."""
        self.steps = steps
        if denoise is None or denoise > 0.9999:
            self.sigmas = self.calculate_sigmas(steps)
        elif denoise <= 0:
            self.sigmas = torch.zeros(0)
        else:
            self.sigmas = self.calculate_sigmas(int(steps / denoise))[-(steps + 1) :]

    def sample(
        self,
        noise: Tensor,
        positive: Conditioning,
        negative: Conditioning,
        cfg: float,
        latent_image: Tensor | None = None,
        start_step: int | None = None,
        last_step: int | None = None,
        force_full_denoise: bool = False,
        denoise_mask: Tensor | None = None,
        sigmas: Tensor | None = None,
        callback: Callback | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        """Sample, or a part of the steps. Where nothing is left to do, the latent unchanged."""
        chosen = part_of(self.sigmas if sigmas is None else sigmas, start_step, last_step, force_full_denoise)
        if chosen is None:
            return torch.zeros_like(noise) if latent_image is None else latent_image
        return sample(
            self.model,
            noise,
            positive,
            negative,
            cfg,
            self.device,
            samplers.get_sampler(self.sampler),
            chosen,
            self.model_options,
            latent_image=latent_image,
            denoise_mask=denoise_mask,
            callback=callback,
            disable_pbar=disable_pbar,
            seed=seed,
        )


def steps_sigmas(sampling: Any, sampler: Sampler, scheduler: str, steps: int, denoise: float = 1.0) -> Tensor:
    """KSampler's sigmas for a sampler as a value: for denoise below 1 the end of a longer schedule; empty for 0."""
    if denoise <= 0:
        return torch.zeros(0)
    total = steps if denoise > 0.9999 else int(steps / denoise)
    if getattr(sampler, "discards_penultimate", False):
        sigmas = schedulers.calculate_sigmas(sampling, scheduler, total + 1)
        sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
    else:
        sigmas = schedulers.calculate_sigmas(sampling, scheduler, total)
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
