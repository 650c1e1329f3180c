"""A sampler as a value: its generator, its options, and the loop that consumes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.sampling.denoise import GuidedDenoise, GuiderLike, Inpaint
from limner.sampling.model_sampling import ModelSampling
from limner.sampling.noise import brownian, gaussian
from limner.sampling.step import Noise, Step, Steps

Callback = Callable[[int, Tensor, Tensor, int], None]
"""`callback(i, denoised, x, total)` at every step; raising `limner.errors.Interrupted` ends the run."""


class SamplerBase:
    """What SAMPLER sockets carry: anything with `sample`, which a guider calls."""

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: Any,
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Run over `sigmas`, from noise to the finished latent, both in model space."""
        raise NotImplementedError

    def max_denoise(self, model_wrap: Any, sigmas: Tensor) -> bool:
        """Whether the schedule starts from pure noise."""
        found: bool = model_wrap.model.sampling.is_max_denoise(float(sigmas[0]))
        return found


@dataclass(frozen=True)
class Sampler(SamplerBase):
    """A named solver.

    steps: the generator function `(denoise, x, sigmas[, noise], **options)`; sigmas are a list of floats.
    noise: none (it is not passed any), gaussian (independent) or brownian (one path).
    on_device: brownian noise is drawn on the model's device instead of the CPU.
    fresh_fill: outside an inpaint mask the latent gets noise of its own (seed + 1) instead of the initial noise.
    discards_penultimate: KSampler asks for one step more and drops the last sigma but one.
    """

    name: str
    steps: Callable[..., Steps]
    noise: Literal["none", "gaussian", "brownian"] = "none"
    on_device: bool = False
    fresh_fill: bool = False
    discards_penultimate: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sampler_function(self) -> Callable[..., Tensor]:
        """The same as a function of (model, x, sigmas, …), as packs call it."""
        functions = import_module("limner.sampling.functions")
        found: Callable[..., Tensor] = getattr(functions, f"sample_{self.name}")
        return found

    @property
    def extra_options(self) -> dict[str, Any]:
        """Its options that are set."""
        return dict(self.options)

    @property
    def inpaint_options(self) -> dict[str, Any]:
        """What packs call `fresh_fill`."""
        return {"random": True} if self.fresh_fill else {}

    def with_options(self, **options: Any) -> Sampler:
        """The same solver with some of its keyword options set. Raises BadInput for one it does not have."""
        known = [p.name for p in inspect.signature(self.steps).parameters.values() if p.kind is p.KEYWORD_ONLY]
        for name in options:
            if name not in known:
                raise BadInput(
                    f"Sampler {self.name} has no option {name!r}.", do=f"It has: {', '.join(known) or 'none'}."
                )
        return replace(self, options={**self.options, **options})

    def sample(
        self,
        model_wrap: GuiderLike,
        sigmas: Tensor,
        extra_args: Mapping[str, Any],
        callback: Callback | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,  # noqa: ARG002 - part of the form custom samplers share
    ) -> Tensor:
        """Run over `sigmas`, from noise added to the latent (model space) to the finished latent.

        extra_args: model_options and seed.
        """
        guider = model_wrap
        levels: list[float] = sigmas.tolist()
        seed = int(extra_args.get("seed") or 0)
        sampling: ModelSampling = guider.model.sampling
        latent = torch.zeros_like(noise) if latent_image is None else latent_image
        inpaint = None
        if denoise_mask is not None:
            inpaint = Inpaint(latent, self._fill(noise, seed, guider), denoise_mask, sigmas)
        denoise = GuidedDenoise(guider, extra_args.get("model_options") or {}, extra_args.get("seed"), inpaint)
        x = sampling.noise_scaling(levels[0], noise, latent, sampling.is_max_denoise(levels[0]))
        steps = self._generate(denoise, x, levels, seed, guider)
        return sampling.inverse_noise_scaling(levels[-1], consume(steps, len(levels) - 1, callback))

    def _fill(self, noise: Tensor, seed: int, guider: GuiderLike) -> Tensor:
        if not self.fresh_fill:
            return noise
        generator = torch.Generator().manual_seed(seed + 1)
        filled: Tensor = guider.model.place(torch.randn(noise.shape, generator=generator, dtype=noise.dtype))
        return filled

    def _generate(self, denoise: GuidedDenoise, x: Tensor, levels: list[float], seed: int, guider: GuiderLike) -> Steps:
        if self.noise == "none":
            return self.steps(denoise, x, levels, **self.options)
        source: Noise
        if self.noise == "brownian" and max(levels) > 0:
            source = brownian(x, levels, seed, None if self.on_device else guider.model.place)
        else:
            source = gaussian(x, seed)
        return self.steps(denoise, x, levels, source, **self.options)


def consume(
    steps: Steps,
    total: int = 0,
    callback: Callback | None = None,
    each: Callable[[Step, int], None] | None = None,
) -> Tensor:
    """Run a sampler's generator to its end; the callback sees every step (`total` is what it is told) and may raise.

    each: called with every step and its number.
    """
    index = 0
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        if callback is not None:
            callback(index, step.denoised, step.x, total)
        if each is not None:
            each(step, index)
        index += 1
