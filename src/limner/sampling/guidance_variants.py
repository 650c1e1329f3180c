"""More guidance as hooks on a model: formulas of the predictions, and formulas that predict once more."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.sampling import conditions
from limner.sampling.guiders import perp_neg
from limner.sampling.prepare import convert_conditioning, process_conditions

if TYPE_CHECKING:
    from limner.sampling.model_sampling import ModelSampling

Arguments = dict[str, Any]
Hook = Callable[[Arguments], Tensor]
PreHook = Callable[[Arguments], list[Tensor]]


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def tangential_damping() -> PreHook:
    """Pre-CFG: the unconditional score projected on what it shares with the conditional one.  Kwon et al. 2025 (TCFG).

    Per latent: the first right-singular vector of the two scores as rows.
    """

    def function(args: Arguments) -> list[Tensor]:
        outputs: list[Tensor] = args["conds_out"]
        if len(outputs) <= 1 or not args["conds"][1]:
            return outputs
        x, cond, uncond = args["input"], outputs[0], outputs[1]
        scores = torch.stack([(x - uncond).flatten(1), (x - cond).flatten(1)], dim=1).float()
        _, _, right = torch.linalg.svd(scores, full_matrices=False)
        shared = right[:, :1]  # (B, 1, N)
        along = scores[:, :1] @ shared.mT @ shared
        return [cond, x - along.reshape(x.shape).to(x.dtype), *outputs[2:]]

    return function


def renorm_cfg(truncation: float, renorm: float, channels: int) -> Hook:
    """sampler_cfg_function: guidance only below a time, no longer than `renorm` conditional lengths.  Lumina 2.

    channels: of the latent; others keep the conditional prediction. Works on what it is given, x less a prediction.
    """

    def function(args: Arguments) -> Tensor:
        cond, uncond, scale = args["cond"], args["uncond"], args["cond_scale"]
        part, away = cond[:, :channels], uncond[:, :channels]
        guided = part
        if float(args["timestep"][0]) < truncation:
            guided = away + scale * (part - away)
            if renorm > 0:
                axes = tuple(range(1, part.ndim))
                most = torch.linalg.vector_norm(part, dim=axes, keepdim=True) * renorm
                length = torch.linalg.vector_norm(guided, dim=axes, keepdim=True)
                guided = torch.where(length >= most, guided * (most / length), guided)
        return torch.cat([guided, cond[:, channels:]], dim=1)

    return function


def epsilon_scaling(factor: float) -> Hook:
    """Post-CFG: the predicted noise divided by a factor.  Ning et al. 2024 (Elucidating the exposure bias)."""

    def function(args: Arguments) -> Tensor:
        x = args["input"]
        scaled: Tensor = x - (x - args["denoised"]) / factor
        return scaled

    return function


def temporal_score_rescaling(k: float, spread: float, sampling: ModelSampling) -> Hook:
    """Post-CFG: the score of sharper (k < 1) or wider data of standard deviation `spread`.  Xu et al. 2025 (TSR)."""

    def function(args: Arguments) -> Tensor:
        denoised: Tensor = args["denoised"]
        sigma = float(args["sigma"][0])
        if k == 1 or sigma == 0:
            return denoised
        alpha = sampling.alpha(sigma)
        snr = (alpha / sigma) ** 2
        if snr == 0:
            return denoised
        variance = spread**2
        ratio = k if math.isinf(snr) else (snr * variance + 1) / (snr * variance / k + 1)
        return torch.lerp(args["input"] / alpha, denoised, ratio)

    return function


def frequency_scaling(low: float, high: float, cutoff: int) -> PreHook:
    """Pre-CFG: low and high frequencies of the guidance scaled apart.  Huang et al. 2025 (FreSca).

    cutoff: half the side of the square of low frequencies.
    """

    def function(args: Arguments) -> list[Tensor]:
        outputs: list[Tensor] = args["conds_out"]
        if len(outputs) <= 1 or not args["conds"][1]:
            return outputs
        cond, uncond = outputs[0], outputs[1]
        guidance = (cond - uncond).float()
        spectrum = torch.fft.fftshift(torch.fft.fft2(guidance), dim=(-2, -1))
        scale = torch.full(spectrum.shape[-2:], high, device=guidance.device)
        box = [slice(n // 2 - min(cutoff, n // 2), n // 2 + min(cutoff, n // 2)) for n in scale.shape]
        scale[box[0], box[1]] = low
        scaled = torch.fft.ifft2(torch.fft.ifftshift(spectrum * scale, dim=(-2, -1))).real
        return [scaled.to(cond.dtype) + uncond, uncond, *outputs[2:]]

    return function


def by_frame(least: float, triangle: bool = False) -> Hook:
    """sampler_cfg_function: the scale grows from `least` over the batch (a video's frames) to the run's; or, as a
    triangle, up to the middle and down again."""

    def function(args: Arguments) -> Tensor:
        cond, uncond = args["cond"], args["uncond"]
        part = torch.linspace(0, 1, len(cond), device=cond.device)
        if triangle:
            part = 2 * (part - (part + 0.5).floor()).abs()
        scale = _column(least + part * (args["cond_scale"] - least), cond)
        guided: Tensor = uncond + scale * (cond - uncond)
        return guided

    return function


def perpendicular_negative(empty: Sequence[Sequence[Any]], neg_scale: float) -> Hook:
    """sampler_cfg_function: `perp_neg` with an empty prompt that is predicted beside the two."""
    marked = [[tokens, {**values, "prompt_type": "negative"}] for tokens, values in empty]

    def function(args: Arguments) -> Tensor:
        model, x, sigma = args["model"], args["input"], args["sigma"]
        prepared = process_conditions(model, x, {"negative": convert_conditioning(marked)})
        (neutral,) = conditions.calc_cond_batch(model, [prepared["negative"]], x, sigma, args["model_options"])
        return perp_neg(args["cond"], args["uncond"], x - neutral, neg_scale, args["cond_scale"])

    return function


def with_replacement(
    options: dict[str, Any], point: str, place: tuple[Any, ...], function: Callable[..., Tensor]
) -> dict[str, Any]:
    """Model options with one more `patches_replace`; those given are not changed."""
    inner = dict(options.get("transformer_options", {}))
    replaced = dict(inner.get("patches_replace", {}))
    replaced[point] = {**replaced.get(point, {}), place: function}
    return {**options, "transformer_options": {**inner, "patches_replace": replaced}}


def perturbed_attention(scale: float, block: tuple[str, int] = ("middle", 0)) -> Hook:
    """Post-CFG: away from the prediction whose self-attention looks nowhere.  Ahn et al. 2024 (PAG)."""

    def look_nowhere(q: Tensor, k: Tensor, v: Tensor, options: Arguments) -> Tensor:  # noqa: ARG001
        return v

    def function(args: Arguments) -> Tensor:
        guided: Tensor = args["denoised"]
        if scale == 0:
            return guided
        options = with_replacement(args["model_options"], "attn1", block, look_nowhere)
        (perturbed,) = conditions.calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)
        moved: Tensor = guided + (args["cond_denoised"] - perturbed) * scale
        return moved

    return function


class SelfAttentionMap:
    """attn1 replacement: attention as ever, which remembers how much each place of the unconditional is looked at.

    mask: (B, 1, H, W) of the block's cells, 1 where the looks, summed over all cells and averaged over heads, exceed 1.
    """

    def __init__(self) -> None:
        self.mask: Tensor | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, options: Arguments) -> Tensor:
        """q, k, v: (B, L, heads·width) → like q."""
        heads = options["n_heads"]
        queries, keys, values = (part.view(*part.shape[:2], heads, -1).transpose(1, 2) for part in (q, k, v))
        scores = (queries.float() @ keys.float().transpose(-1, -2) / math.sqrt(queries.shape[-1])).softmax(-1)
        branches = options["cond_or_uncond"]
        if 1 in branches:
            mine = scores.chunk(len(branches))[branches.index(1)]
            height, width = options["activations_shape"][-2:]
            looks = mine.mean(1).sum(1) > 1.0
            self.mask = looks.to(q.dtype).reshape(-1, 1, height, width)
        out: Tensor = (scores.to(v.dtype) @ values).transpose(1, 2).flatten(2)
        return out


def self_attention_guidance(scale: float, blur_sigma: float, attention: SelfAttentionMap) -> Hook:
    """Post-CFG: away from a prediction that saw the attended places blurred.  Hong et al. 2023 (SAG).

    blur_sigma: in cells, of a kernel nine wide. attention: what the unconditional prediction left behind.
    """

    def function(args: Arguments) -> Tensor:
        guided: Tensor = args["denoised"]
        uncond, x = args["uncond_denoised"], args["input"]
        if min(guided.shape[-2:]) <= 4 or attention.mask is None:
            return guided
        mask = F.interpolate(attention.mask.to(uncond), size=uncond.shape[-2:], mode="nearest")
        degraded = blurred(uncond, blur_sigma) * mask + uncond * (1 - mask)
        noised = degraded + x - uncond
        options = args["model_options"]
        (again,) = conditions.calc_cond_batch(args["model"], [args["uncond"]], noised, args["sigma"], options)
        moved: Tensor = guided + (degraded - again) * scale
        return moved

    return function


def blurred(x: Tensor, sigma: float, size: int = 9) -> Tensor:
    """A Gaussian blur of (B, C, H, W) with mirrored edges; sigma 0 changes nothing."""
    if sigma == 0:
        return x
    offsets = torch.arange(size, device=x.device, dtype=x.dtype) - (size - 1) / 2
    line = torch.exp(-0.5 * (offsets / sigma) ** 2)
    line = line / line.sum()
    kernel = (line[:, None] * line).expand(x.shape[1], 1, size, size)
    return F.conv2d(F.pad(x, [size // 2] * 4, mode="reflect"), kernel, groups=x.shape[1])
