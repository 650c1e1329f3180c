"""Classes of comfy_extras that are no nodes: noise and guiders as values, and distilled models' levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from limner.compat.homes import comfy_model_sampling as levels
from limner.compat.homes.comfy_model_sampling import EPS
from limner.sampling import guiders
from limner.sampling import noise as noise_sources
from limner.sampling.guiders import perp_neg as _perp_neg


class Noise_EmptyNoise:  # noqa: N801 - ComfyUI's name
    """No noise."""

    def __init__(self) -> None:
        self.seed = 0

    def generate_noise(self, input_latent: Mapping[str, Any]) -> Tensor:
        """Zeros shaped like the latent's samples."""
        samples: Tensor = input_latent["samples"]
        return torch.zeros(samples.shape, dtype=samples.dtype, layout=samples.layout)


class Noise_RandomNoise:  # noqa: N801
    """Unit normal noise of a seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generate_noise(self, input_latent: Mapping[str, Any]) -> Tensor:
        """Noise shaped like the latent's samples."""
        return noise_sources.prepare_noise(input_latent["samples"], self.seed, input_latent.get("batch_index"))


class Guider_Basic(guiders.BasicGuider):  # noqa: N801
    """One conditioning, no guidance."""

    def set_conds(self, positive: Any, negative: Any = None) -> None:
        """The conditioning."""
        del negative
        self.inner_set_conds({"positive": positive})


class Guider_DualCFG(guiders.DualCFGGuider):  # noqa: N801
    """Two conditionings and a negative."""

    def set_cfg(self, cfg1: float, cfg2: float = 1.0, nested: bool = False) -> None:
        """The two scales."""
        self.set_dual_cfg(cfg1, cfg2, nested)

    def set_conds(self, positive: Any, middle: Any, negative: Any = None) -> None:  # type: ignore[override]
        """The three conditionings."""
        self.set_dual_conds(positive, middle, negative)


class Guider_PerpNeg(guiders.PerpNegGuider):  # noqa: N801
    """Positive, negative and an empty prompt."""

    def set_conds(self, positive: Any, negative: Any, empty_negative_prompt: Sequence[Any] = ()) -> None:
        """The three conditionings."""
        self.set_perp_conds(positive, negative, empty_negative_prompt)

    def set_cfg(self, cfg: float, neg_scale: float = 1.0) -> None:
        """The guidance scale, and the negative's part in it."""
        self.set_perp_cfg(cfg, neg_scale)


def perp_neg(
    x: Tensor,
    noise_pred_pos: Tensor,
    noise_pred_neg: Tensor,
    noise_pred_nocond: Tensor,
    neg_scale: float,
    cond_scale: float,
) -> Tensor:
    """Guidance away from what of the negative is perpendicular to the positive."""
    del x
    return _perp_neg(noise_pred_pos, noise_pred_neg, noise_pred_nocond, neg_scale, cond_scale)


class LCM(EPS):
    """Noise prediction with a consistency model's boundary condition."""

    recognises = None

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """The clean picture from the network's output."""
        time = self.timestep(sigma).view(sigma.shape[:1] + (1,) * (model_output.ndim - 1))  # type: ignore[attr-defined]
        level = levels.reshape_sigma(sigma, model_output.ndim)
        scaled = time * 10.0
        total = scaled**2 + 0.25
        clean: Tensor = (model_input - model_output * level) * (scaled / total**0.5) + model_input * (0.25 / total)
        return clean


class ModelSamplingDiscreteDistilled(levels.ModelSamplingDiscrete):
    """A consistency-distilled model's 50 of 1000 times."""

    original_timesteps = 50
    recognises = None

    def set_sigmas(self, sigmas: Tensor) -> None:
        """Use every twentieth level of a table."""
        from limner.sampling.time import DistilledTime  # noqa: PLC0415 - one use

        self.skip_steps = len(sigmas) // self.original_timesteps
        self._take(DistilledTime(sigmas.float(), self.original_timesteps))
