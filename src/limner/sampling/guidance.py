"""Guidance variants as hooks on a model: each makes a CFG function, a pre- or a post-CFG function."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from limner.sampling.protocols import DiffusionModel

Arguments = dict[str, Any]
Hook = Callable[[Arguments], Tensor]


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def rescale_cfg(multiplier: float = 0.7) -> Hook:
    """sampler_cfg_function: the guided velocity given the conditional one's spread.  Lin et al. 2023, section 3.4."""

    def function(args: Arguments) -> Tensor:
        x, scale = args["input"], args["cond_scale"]
        sigma = _column(args["sigma"], x)
        root = (sigma**2 + 1).sqrt()
        base = x / (sigma**2 + 1)

        def velocity(noise: Tensor) -> Tensor:
            moved: Tensor = (base - (x - noise)) * root / sigma
            return moved

        cond, uncond = velocity(args["cond"]), velocity(args["uncond"])
        guided = uncond + scale * (cond - uncond)
        axes = tuple(range(1, x.ndim))
        ratio = cond.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
        blended = multiplier * guided * ratio + (1 - multiplier) * guided
        result: Tensor = x - (base - blended * sigma / root)
        return result

    return function


def cfg_zero_star() -> Hook:
    """Post-CFG: the unconditional prediction scaled to the conditional one.  Fan et al. 2025 (CFG-Zero*)."""

    def function(args: Arguments) -> Tensor:
        x, scale = args["input"], args["cond_scale"]
        cond, uncond = args["cond_denoised"], args["uncond_denoised"]
        toward, away = (x - cond).flatten(1), (x - uncond).flatten(1)
        alpha = _column((toward * away).sum(1) / ((away**2).sum(1) + 1e-8), x)
        result: Tensor = args["denoised"] + uncond * (alpha - 1) + scale * uncond * (1 - alpha)
        return result

    return function


def cfg_norm(strength: float = 1.0) -> Hook:
    """Post-CFG: no cell's vector longer than the conditional prediction's."""

    def function(args: Arguments) -> Tensor:
        result, cond = args["denoised"], args["cond_denoised"]
        ratio = cond.norm(dim=1, keepdim=True) / (result.norm(dim=1, keepdim=True) + 1e-8)
        scaled: Tensor = result * ratio.clamp(0, 1) * strength
        return scaled

    return function


def mahiro() -> Hook:
    """Post-CFG: leans to the positive prediction where guidance agrees with it."""

    def function(args: Arguments) -> Tensor:
        scale, guided = args["cond_scale"], args["denoised"]
        leap = args["cond_denoised"] * scale
        merged = (leap + guided) / 2

        def signed_root(tensor: Tensor) -> Tensor:
            return tensor.sign() * tensor.abs().sqrt()

        away = signed_root(args["uncond_denoised"] * scale)
        similar = torch.nn.functional.cosine_similarity(away, signed_root(merged)).mean()
        part = 2 * (similar + 1)
        result: Tensor = (part * guided + (4 - part) * leap) / 4
        return result

    return function


class AdaptiveProjection:
    """Pre-CFG: guidance without what only lengthens the prediction.  Sadat et al. 2024 (APG).

    Keeps a running average of the guidance during a run (`momentum`): one object a run's model.
    """

    def __init__(self, eta: float = 1.0, norm_threshold: float = 5.0, momentum: float = 0.0) -> None:
        self.eta, self.norm_threshold, self.momentum = eta, norm_threshold, momentum
        self.average: Tensor | float = 0.0
        self.last_sigma: float | None = None

    def __call__(self, args: Arguments) -> list[Tensor]:
        """The conditional prediction moved so that plain CFG gives cond + scale · projected guidance."""
        outputs: list[Tensor] = args["conds_out"]
        if len(outputs) <= 1 or not args["conds"][1]:
            return outputs
        sigma = float(args["sigma"][0])
        if self.last_sigma is not None and sigma > self.last_sigma:
            self.average = 0.0
        self.last_sigma = sigma
        cond, uncond = outputs[0], outputs[1]
        guidance = cond - uncond
        if self.momentum != 0:
            guidance = self.average = self.momentum * self.average + guidance
        axes = (-1, -2, -3)
        if self.norm_threshold > 0:
            guidance = guidance * (
                self.norm_threshold / torch.linalg.vector_norm(guidance, dim=axes, keepdim=True)
            ).clamp(max=1)
        unit = cond / torch.linalg.vector_norm(cond, dim=axes, keepdim=True).clamp(min=1e-12)
        parallel = (guidance * unit).sum(axes, keepdim=True) * unit
        projected = guidance - parallel + self.eta * parallel
        return [uncond + projected + (cond - uncond) / args["cond_scale"], uncond, *outputs[2:]]


def differential_diffusion(model: DiffusionModel, strength: float = 1.0) -> Callable[..., Tensor]:
    """denoise_mask_function: a cell is free once the run has come as far as its mask says.  Levin & Fried 2023."""
    sampling = model.sampling

    def function(sigma: Tensor, mask: Tensor, extra_options: Arguments) -> Tensor:
        levels = extra_options["sigmas"]
        start = sampling.timestep(levels[0])
        end = sampling.timestep(levels[-1].clamp(min=sampling.sigma_min))
        threshold = (sampling.timestep(sigma[0]) - end) / (start - end)
        binary = (mask >= threshold).to(mask.dtype)
        return strength * binary + (1 - strength) * mask if 0 < strength < 1 else binary

    return function
