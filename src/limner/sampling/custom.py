"""Custom sampling: noise, guider, sampler and sigmas given one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from limner.sampling import entry
from limner.sampling import noise as noise_sources
from limner.sampling.sampler import Callback, Sampler

if TYPE_CHECKING:
    from limner.sampling.guiders import CFGGuider
    from limner.sampling.protocols import DiffusionModel

LatentDict = dict[str, Any]


@dataclass(frozen=True)
class RandomNoise:
    """Unit normal noise of a seed: what NOISE sockets carry."""

    seed: int

    def generate_noise(self, input_latent: Mapping[str, Any]) -> Tensor:
        """Noise shaped like the latent's samples; equal `batch_index` entries share theirs."""
        samples, index = input_latent["samples"], input_latent.get("batch_index")
        noise: Tensor = noise_sources.prepare_noise(samples, self.seed, index)
        return noise


@dataclass(frozen=True)
class EmptyNoise:
    """No noise: the latent is sampled as it is."""

    seed: int = 0

    def generate_noise(self, input_latent: Mapping[str, Any]) -> Tensor:
        """Zeros shaped like the latent's samples."""
        samples: Tensor = input_latent["samples"]
        return torch.zeros(samples.shape, dtype=samples.dtype)


class Sampled(NamedTuple):
    """The latent sampling ended with, and the clean latent it last predicted."""

    output: LatentDict
    denoised: LatentDict


Predict = Callable[[Tensor, Tensor, Tensor | None, Callback], Tensor]
"""`predict(noise, samples, mask, callback)`: one sampling."""


def sample_with_guider(
    guider: CFGGuider,
    noise: RandomNoise | EmptyNoise,
    sampler: Sampler,
    sigmas: Tensor,
    latent: Mapping[str, Any],
    callback: Callback | None = None,
) -> Sampled:
    """Sample a latent over `sigmas`; its other entries are kept, `noise_mask` and `batch_index` honoured.

    Without a step both results are the same.
    """

    def predict(drawn: Tensor, samples: Tensor, mask: Tensor | None, at_step: Callback) -> Tensor:
        return guider.sample(
            drawn, samples, sampler, sigmas, denoise_mask=mask, callback=at_step, seed=noise.seed
        )  # fmt: skip

    return _sampled(guider.model_patcher, noise, latent, callback, predict)


def sample_custom(
    model: DiffusionModel,
    noise: RandomNoise | EmptyNoise,
    cfg: float,
    positive: Sequence[Sequence[Any]],
    negative: Sequence[Sequence[Any]],
    sampler: Sampler,
    sigmas: Tensor,
    latent: Mapping[str, Any],
    callback: Callback | None = None,
) -> Sampled:
    """The same with plain guidance."""

    def predict(drawn: Tensor, samples: Tensor, mask: Tensor | None, at_step: Callback) -> Tensor:
        return entry.sample_custom(
            model, drawn, cfg, sampler, sigmas, positive, negative, samples,
            noise_mask=mask, callback=at_step, seed=noise.seed,
        )  # fmt: skip

    return _sampled(model, noise, latent, callback, predict)


def _sampled(
    model: DiffusionModel,
    noise: RandomNoise | EmptyNoise,
    latent: Mapping[str, Any],
    callback: Callback | None,
    predict: Predict,
) -> Sampled:
    given = {**latent, "samples": entry.fix_empty_latent_channels(model, latent["samples"])}
    last: list[Tensor] = []

    def at_step(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        last[:] = [denoised]
        if callback is not None:
            callback(step, denoised, x, total)

    samples = predict(noise.generate_noise(given), given["samples"], given.get("noise_mask"), at_step)
    output = {**given, "samples": samples}
    if not last:
        return Sampled(output, output)
    return Sampled(output, {**output, "samples": model.latent_format.process_out(last[0].cpu().float())})


def add_noise(
    model: DiffusionModel, noise: RandomNoise | EmptyNoise, sigmas: Tensor, latent: Mapping[str, Any]
) -> LatentDict:
    """A latent with as much noise as there is between the first and the last sigma."""
    if not len(sigmas):
        return dict(latent)
    samples: Tensor = latent["samples"]
    drawn = noise.generate_noise(latent)
    strength = (sigmas[0] - sigmas[-1]).abs() if len(sigmas) > 1 else sigmas[0]
    if samples.any():
        samples = model.latent_format.process_in(samples)
    noisy = model.latent_format.process_out(model.sampling.noise_scaling(float(strength), drawn, samples))
    return {**latent, "samples": torch.nan_to_num(noisy, nan=0.0, posinf=0.0, neginf=0.0)}
