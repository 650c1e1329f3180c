"""Guidance by a network that lacks some of its blocks: away from what it predicts, or in the negative's place.

Hyung et al. 2024, "Spatiotemporal skip guidance"; the form that Stability AI published with Stable Diffusion 3.5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from limner.sampling import conditions
from limner.sampling.guidance_variants import Arguments, Hook, with_replacement


def layer_numbers(text: str) -> tuple[int, ...]:
    """Every number in a text, whatever stands between them."""
    return tuple(int(digits) for digits in re.findall(r"\d+", text))


def unchanged(args: Mapping[str, Any], extra: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG001
    """In place of a block: what goes in comes out."""
    return args


@dataclass(frozen=True)
class SkippedLayers:
    """Blocks that are left out, and between which noise levels. double, single: numbers of blocks of either kind."""

    double: Sequence[int]
    single: Sequence[int]
    sigma_start: float
    sigma_end: float

    def active(self, sigma: Tensor) -> bool:
        """Whether they are left out at this noise level; both ends belong to the range."""
        return self.sigma_end <= float(sigma.max()) <= self.sigma_start

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Model options under which the network leaves them out."""
        for kind, numbers in (("double_block", self.double), ("single_block", self.single)):
            for number in numbers:
                options = with_replacement(options, "dit", (kind, number), unchanged)  # type: ignore[arg-type]
        return options


def skip_layer_guidance(layers: SkippedLayers, scale: float, rescale: float = 0.0) -> Hook:
    """Post-CFG: away from the positive prediction without the layers.

    rescale: how much of the change of spread that guidance brings is taken back.
    """

    def function(args: Arguments) -> Tensor:
        guided: Tensor = args["denoised"]
        if scale <= 0 or not layers.active(args["sigma"]):
            return guided
        options = layers.options(args["model_options"])
        (skipped,) = conditions.calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)
        guided = guided + (args["cond_denoised"] - skipped) * scale
        if rescale:
            guided = guided * (rescale * (args["cond_denoised"].std() / guided.std()) + 1 - rescale)
        return guided

    return function


def skipping_negative(layers: SkippedLayers) -> Any:
    """In place of the branches' prediction: the negative is predicted without the layers."""

    def function(args: Arguments) -> list[Tensor]:
        conds, options = args["conds"], args["model_options"]
        model, x, sigma = args["model"], args["input"], args["sigma"]
        if len(conds) < 2 or conds[1] is None or not layers.active(sigma):
            return conditions.calc_cond_batch(model, conds, x, sigma, options)
        (positive,) = conditions.calc_cond_batch(model, conds[:1], x, sigma, options)
        (negative,) = conditions.calc_cond_batch(model, conds[1:2], x, sigma, layers.options(options))
        more = conditions.calc_cond_batch(model, conds[2:], x, sigma, options) if conds[2:] else []
        return [positive, negative, *more]

    return function
