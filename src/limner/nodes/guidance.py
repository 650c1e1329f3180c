"""Guidance: how the predictions for the conditionings become one, as patches of a model."""

from __future__ import annotations

from functools import partial
from typing import Annotated, NamedTuple

from limner.graph import Conditioning, Float, Int, Optional, node
from limner.nodes.kinds import LATENT_OPERATION, MODEL
from limner.sampling import guidance, latent_operations
from limner.sampling import guidance_variants as variants

Strength = Annotated[float, Float(min=0.0, max=100.0, step=0.01)]
LeastScale = Annotated[float, Float(min=0.0, max=100.0, step=0.5, round=0.01)]
Factor = Annotated[float, Float(min=0, max=10, step=0.01)]

guidance_node = partial(node, category="advanced/guidance", style="v3")


class Guided(NamedTuple):
    """The model with its guidance changed."""

    patched_model: MODEL


def _post(model: MODEL, hook: variants.Hook, keep_uncond: bool = False) -> MODEL:
    changed = model.clone()
    changed.set_model_sampler_post_cfg_function(hook, disable_cfg1_optimization=keep_uncond)
    return changed


def _pre(model: MODEL, hook: variants.PreHook) -> MODEL:
    changed = model.clone()
    changed.set_model_sampler_pre_cfg_function(hook)
    return changed


def _instead(model: MODEL, hook: variants.Hook) -> MODEL:
    changed = model.clone()
    changed.set_model_sampler_cfg_function(hook)
    return changed


@node(
    "RescaleCFG",
    category="advanced/model",
    title="RescaleCFG",
    python_module="comfy_extras.nodes_model_advanced",
)
def rescale(model: MODEL, multiplier: Annotated[float, Float(min=0.0, max=1.0, step=0.01)] = 0.7) -> MODEL:
    """The guided prediction given the spread of the conditional one, which high scales and v-prediction ask for."""
    return _instead(model, guidance.rescale_cfg(multiplier))


@node("RenormCFG", category="advanced/model", title="", python_module="comfy_extras.nodes_lumina2", style="v3")
def renorm(
    model: MODEL,
    cfg_trunc: Annotated[float, Float(min=0.0, max=100.0, step=0.01)] = 100.0,
    renorm_cfg: Strength = 1.0,
) -> MODEL:
    """Guidance below a noise level only, and no longer than the conditional prediction.

    model: the diffusion model.
    cfg_trunc: the noise level below which there is guidance.
    renorm_cfg: how many lengths of the conditional prediction it may have; 0 for any.
    """
    return _instead(model, variants.renorm_cfg(cfg_trunc, renorm_cfg, model.latent_format.channels))


@guidance_node("CFGZeroStar", title="", python_module="comfy_extras.nodes_cfg")
def zero_star(model: MODEL) -> Guided:
    """The unconditional prediction scaled to the conditional one first (CFG-Zero*).

    model: the diffusion model.
    """
    return Guided(_post(model, guidance.cfg_zero_star()))


@guidance_node("CFGNorm", title="", python_module="comfy_extras.nodes_cfg", experimental=True)
def norm(model: MODEL, strength: Strength = 1.0) -> Guided:
    """No cell of the guided prediction longer than the conditional one's.

    model: the diffusion model.
    strength: what the result is multiplied by.
    """
    return Guided(_post(model, guidance.cfg_norm(strength)))


@guidance_node("TCFG", title="Tangential Damping CFG", python_module="comfy_extras.nodes_tcfg")
def tangential(model: MODEL) -> Guided:
    """The unconditional prediction without what the conditional one does not share (TCFG).

    model: the diffusion model.
    """
    return Guided(_pre(model, variants.tangential_damping()))


@node(
    "Mahiro",
    category="_for_testing",
    title="Mahiro is so cute that she deserves a better guidance function!! (。・ω・。)",
    python_module="comfy_extras.nodes_mahiro",
    style="v3",
    experimental=True,
)
def mahiro(model: MODEL) -> Guided:
    """Guidance that leans to the positive prediction where both agree.

    model: the diffusion model.
    """
    return Guided(_post(model, guidance.mahiro()))


@node(
    "APG",
    category="sampling/custom_sampling",
    title="Adaptive Projected Guidance",
    python_module="comfy_extras.nodes_apg",
    style="v3",
)
def adaptive_projection(
    model: MODEL,
    eta: Annotated[float, Float(min=-10.0, max=10.0, step=0.01)] = 1.0,
    norm_threshold: Annotated[float, Float(min=0.0, max=50.0, step=0.1)] = 5.0,
    momentum: Annotated[float, Float(min=-5.0, max=1.0, step=0.01)] = 0.0,
) -> MODEL:
    """Guidance without what only lengthens the prediction (APG).

    model: the diffusion model.
    eta: how much of the lengthening is kept; 1 is plain guidance.
    norm_threshold: the length guidance may have; 0 for any.
    momentum: how much of the steps before is added.
    """
    return _pre(model, guidance.AdaptiveProjection(eta, norm_threshold, momentum))


@node(
    "FreSca",
    category="_for_testing",
    title="FreSca",
    python_module="comfy_extras.nodes_fresca",
    style="v3",
    experimental=True,
)
def frequency_scaling(
    model: MODEL,
    scale_low: Factor = 1.0,
    scale_high: Factor = 1.25,
    freq_cutoff: Annotated[int, Int(min=1, max=10000, step=1)] = 20,
) -> MODEL:
    """Low and high frequencies of the guidance scaled apart (FreSca).

    model: the diffusion model.
    scale_low: of the low frequencies.
    scale_high: of the high frequencies.
    freq_cutoff: how many frequencies are low.
    """
    return _pre(model, variants.frequency_scaling(scale_low, scale_high, freq_cutoff))


@node("Epsilon Scaling", category="model_patches/unet", title="", python_module="comfy_extras.nodes_eps", style="v3")
def epsilon_scaling(
    model: MODEL,
    scaling_factor: Annotated[float, Float(min=0.5, max=1.5, step=0.001, extra={"display": "number"})] = 1.005,
) -> MODEL:
    """The predicted noise divided by a factor, against the drift of sampling.

    model: the diffusion model.
    scaling_factor: the factor.
    """
    return _post(model, variants.epsilon_scaling(scaling_factor))


@node(
    "TemporalScoreRescaling",
    category="model_patches/unet",
    title="TSR - Temporal Score Rescaling",
    python_module="comfy_extras.nodes_eps",
    style="v3",
)
def score_rescaling(
    model: MODEL,
    tsr_k: Annotated[float, Float(min=0.01, max=100.0, step=0.001, extra={"display": "number"})] = 0.95,
    tsr_sigma: Annotated[float, Float(min=0.01, max=100.0, step=0.001, extra={"display": "number"})] = 1.0,
) -> Guided:
    """Predictions of sharper or wider data than the model was trained on (TSR).

    model: the diffusion model.
    tsr_k: below 1 sharper, above 1 wider.
    tsr_sigma: how early this sets in; larger is earlier.
    """
    return Guided(_post(model, variants.temporal_score_rescaling(tsr_k, tsr_sigma, model.sampling)))


@node(
    "DifferentialDiffusion",
    category="_for_testing",
    title="Differential Diffusion",
    python_module="comfy_extras.nodes_differential_diffusion",
    style="v3",
    experimental=True,
)
def differential_diffusion(
    model: MODEL, strength: Annotated[float, Float(min=0.0, max=1.0, step=0.01), Optional()] = 1.0
) -> MODEL:
    """Grey in an inpaint mask means how early a place is let go.

    model: the diffusion model.
    strength: between this and the plain mask.
    """
    changed = model.clone()
    changed.set_model_denoise_mask_function(guidance.differential_diffusion(model, strength))
    return changed


@node(
    "PerpNeg",
    category="_for_testing",
    title="Perp-Neg (DEPRECATED by PerpNegGuider)",
    python_module="comfy_extras.nodes_perpneg",
    style="v3",
    deprecated=True,
    experimental=True,
)
def perpendicular_negative(model: MODEL, empty_conditioning: Conditioning, neg_scale: Strength = 1.0) -> MODEL:
    """Guidance away from what of the negative is perpendicular to the positive.

    model: the diffusion model.
    empty_conditioning: an empty prompt.
    neg_scale: how much the negative counts.
    """
    return _instead(model, variants.perpendicular_negative(empty_conditioning, neg_scale))


@node(
    "PerturbedAttentionGuidance",
    category="model_patches/unet",
    title="",
    python_module="comfy_extras.nodes_pag",
    style="v3",
)
def perturbed_attention(
    model: MODEL, scale: Annotated[float, Float(min=0.0, max=100.0, step=0.01, round=0.01)] = 3.0
) -> MODEL:
    """Away from the prediction of a model that looks nowhere in its middle (PAG).

    model: the diffusion model.
    scale: how strongly.
    """
    return _post(model, variants.perturbed_attention(scale))


@node(
    "SelfAttentionGuidance",
    category="_for_testing",
    title="Self-Attention Guidance",
    python_module="comfy_extras.nodes_sag",
    style="v3",
    experimental=True,
)
def self_attention(
    model: MODEL,
    scale: Annotated[float, Float(min=-2.0, max=5.0, step=0.01)] = 0.5,
    blur_sigma: Annotated[float, Float(min=0.0, max=10.0, step=0.1)] = 2.0,
) -> MODEL:
    """Away from the prediction that sees blurred what the model attends to (SAG).

    model: the diffusion model.
    scale: how strongly.
    blur_sigma: how blurred, in latent cells.
    """
    attention = variants.SelfAttentionMap()
    changed = _post(model, variants.self_attention_guidance(scale, blur_sigma, attention), keep_uncond=True)
    changed.set_model_attn1_replace(attention, "middle", 0, 0)
    return changed


@node(
    "VideoLinearCFGGuidance",
    category="sampling/video_models",
    title="VideoLinearCFGGuidance",
    python_module="comfy_extras.nodes_video_model",
)
def linear_by_frame(model: MODEL, min_cfg: LeastScale = 1.0) -> MODEL:
    """A scale that grows from the first frame's `min_cfg` to the last one's."""
    return _instead(model, variants.by_frame(min_cfg))


@node(
    "VideoTriangleCFGGuidance",
    category="sampling/video_models",
    title="VideoTriangleCFGGuidance",
    python_module="comfy_extras.nodes_video_model",
)
def triangle_by_frame(model: MODEL, min_cfg: LeastScale = 1.0) -> MODEL:
    """A scale that grows from `min_cfg` up to the middle frame and falls again."""
    return _instead(model, variants.by_frame(min_cfg, triangle=True))


@node(
    "LatentApplyOperationCFG",
    category="latent/advanced/operations",
    title="",
    python_module="comfy_extras.nodes_latent",
    style="v3",
    experimental=True,
)
def operation_before_guidance(model: MODEL, operation: LATENT_OPERATION) -> MODEL:
    """An operation on the guidance at every step.

    model: the diffusion model.
    operation: what is done.
    """
    return _pre(model, latent_operations.before_guidance(operation))
