"""The call samplers make: guidance behind one function of (x, sigma), with the inpaint mask applied around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from limner.sampling.model_sampling import ModelSampling


class GuiderLike(Protocol):
    """What a sampler needs of a guider: its model, and to be called."""

    @property
    def model(self) -> Any:
        """The model being guided."""
        ...

    @property
    def inner_model(self) -> Any:
        """Its network and facts."""
        ...

    def __call__(self, x: Tensor, sigma: Tensor, model_options: dict[str, Any], seed: int | None = None) -> Tensor:
        """The guided prediction of the clean latent."""
        ...


@dataclass(frozen=True)
class Inpaint:
    """What is kept: `latent` where `mask` is 0, with `noise` added while the rest is noisy. All shaped like x."""

    latent: Tensor
    noise: Tensor
    mask: Tensor
    sigmas: Tensor


class GuidedDenoise:
    """`denoise(x, sigma)` over a guider."""

    def __init__(
        self, guider: GuiderLike, options: Mapping[str, Any], seed: int | None = None, inpaint: Inpaint | None = None
    ) -> None:
        self.guider = guider
        self.options = dict(options)
        self.seed = seed
        self.inpaint = inpaint

    @property
    def sampling(self) -> ModelSampling:
        """Noise levels and prediction kind of the model."""
        found: ModelSampling = self.guider.model.sampling
        return found

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """The clean latent; outside the mask it is the kept one."""
        return self._predict(x, sigma, self.options)

    def with_uncond(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """The clean latent and the negative conditioning's own prediction, which is then made at any cfg.

        The probe is the last of this call's post-CFG functions, so it works for every guider that runs those.
        """
        seen: list[Tensor] = []

        def probe(args: dict[str, Any]) -> Tensor:
            seen.append(args["uncond_denoised"])
            denoised: Tensor = args["denoised"]
            return denoised

        options = dict(self.options)
        options["sampler_post_cfg_function"] = [*options.get("sampler_post_cfg_function", ()), probe]
        options["disable_cfg1_optimization"] = True
        denoised = self._predict(x, sigma, options)
        return denoised, seen[-1] if seen else denoised

    def _predict(self, x: Tensor, sigma: float, options: dict[str, Any]) -> Tensor:
        return guided(self.guider, x, x.new_full((x.shape[0],), sigma), options, self.seed, self.inpaint)


def guided(
    guider: Any, x: Tensor, level: Tensor, options: dict[str, Any], seed: int | None, kept: Inpaint | None
) -> Tensor:
    """The guider's clean latent at `level` (one a row); outside the mask it is the kept one."""
    if kept is None:
        found: Tensor = guider(x, level, options, seed)
        return found
    model, mask = guider.inner_model, kept.mask
    if change := options.get("denoise_mask_function"):
        mask = change(level, mask, extra_options={"model": model, "sigmas": kept.sigmas})
    outside = kept.latent
    scale = getattr(model, "scale_latent_inpaint", None)
    if scale is not None:
        outside = scale(sigma=level, noise=kept.noise, latent_image=kept.latent, x=x, denoise_mask=mask)
    elif not model.latent_format.clean_inpaint:
        outside = model.sampling.noise_scaling(level, kept.noise, kept.latent)
    denoised: Tensor = guider(x * mask + outside * (1 - mask), level, options, seed)
    return denoised * mask + kept.latent * (1 - mask)
