"""Sampling with its parts given one by one: noise, guider, sampler, sigmas."""

from __future__ import annotations

from functools import partial
from typing import Annotated, NamedTuple

from limner.graph import Choice, Conditioning, Float, Int, Latent, Run, Sigmas, node
from limner.nodes.kinds import GUIDER, MODEL, NOISE, SAMPLER
from limner.nodes.progress import step_callback
from limner.sampling import custom, guiders

Seed = Annotated[int, Int(min=0, max=2**64 - 1, control_after_generate=True)]
Guidance = Annotated[float, Float(min=0.0, max=100.0, step=0.1, round=0.01)]
NegativeScale = Annotated[float, Float(min=0.0, max=100.0, step=0.01)]

custom_node = partial(node, python_module="comfy_extras.nodes_custom_sampler")


class Outputs(NamedTuple):
    """The latent, and the clean latent that was predicted last."""

    output: Latent
    denoised_output: Latent


@custom_node("SamplerCustom", category="sampling/custom_sampling", title="SamplerCustom")
def sample(
    run: Run,
    *,
    model: MODEL,
    add_noise: bool = True,
    noise_seed: Seed = 0,
    cfg: Guidance = 8.0,
    positive: Conditioning,
    negative: Conditioning,
    sampler: SAMPLER,
    sigmas: Sigmas,
    latent_image: Latent,
) -> Outputs:
    """A latent sampled with a sampler over sigmas, guided towards the positive conditioning."""
    noise = custom.RandomNoise(noise_seed) if add_noise else custom.EmptyNoise(noise_seed)
    callback = step_callback(run, model)
    return Outputs(
        *custom.sample_custom(model, noise, cfg, positive, negative, sampler, sigmas, latent_image, callback)
    )


@custom_node("SamplerCustomAdvanced", category="sampling/custom_sampling", title="SamplerCustomAdvanced")
def sample_advanced(
    run: Run, noise: NOISE, guider: GUIDER, sampler: SAMPLER, sigmas: Sigmas, latent_image: Latent
) -> Outputs:
    """A latent sampled with noise, guider, sampler and sigmas."""
    callback = step_callback(run, guider.model_patcher)
    return Outputs(*custom.sample_with_guider(guider, noise, sampler, sigmas, latent_image, callback))


@custom_node("CFGGuider", category="sampling/custom_sampling/guiders", title="CFGGuider")
def cfg_guider(model: MODEL, positive: Conditioning, negative: Conditioning, cfg: Guidance = 8.0) -> GUIDER:
    """Classifier-free guidance."""
    guider = guiders.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


@custom_node("BasicGuider", category="sampling/custom_sampling/guiders", title="BasicGuider")
def basic_guider(model: MODEL, conditioning: Conditioning) -> GUIDER:
    """One conditioning and no guidance."""
    guider = guiders.BasicGuider(model)
    guider.set_cond(conditioning)
    return guider


@custom_node("DualCFGGuider", category="sampling/custom_sampling/guiders", title="DualCFGGuider")
def dual_cfg_guider(
    *,
    model: MODEL,
    cond1: Conditioning,
    cond2: Conditioning,
    negative: Conditioning,
    cfg_conds: Guidance = 8.0,
    cfg_cond2_negative: Guidance = 8.0,
    style: Annotated[str, Choice(("regular", "nested"))],
) -> GUIDER:
    """Two conditionings and a negative: the first against the second, and that against the negative."""
    guider = guiders.DualCFGGuider(model)
    guider.set_dual_conds(cond1, cond2, negative)
    guider.set_dual_cfg(cfg_conds, cfg_cond2_negative, nested=style == "nested")
    return guider


@node(
    "PerpNegGuider",
    category="_for_testing",
    title="",
    python_module="comfy_extras.nodes_perpneg",
    style="v3",
    experimental=True,
)
def perp_neg_guider(
    model: MODEL,
    positive: Conditioning,
    negative: Conditioning,
    empty_conditioning: Conditioning,
    cfg: Guidance = 8.0,
    neg_scale: NegativeScale = 1.0,
) -> GUIDER:
    """Guidance away from what of the negative is perpendicular to the positive.

    model: the diffusion model.
    positive: what the picture shows.
    negative: what it does not show.
    empty_conditioning: an empty prompt.
    cfg: how strongly the conditioning is followed.
    neg_scale: how much the negative counts.
    """
    guider = guiders.PerpNegGuider(model)
    guider.set_perp_conds(positive, negative, empty_conditioning)
    guider.set_perp_cfg(cfg, neg_scale)
    return guider


@custom_node("RandomNoise", category="sampling/custom_sampling/noise", title="RandomNoise")
def random_noise(noise_seed: Seed = 0) -> NOISE:
    """Noise of a seed."""
    return custom.RandomNoise(noise_seed)


@custom_node("DisableNoise", category="sampling/custom_sampling/noise", title="DisableNoise")
def disable_noise() -> NOISE:
    """No noise."""
    return custom.EmptyNoise()


@custom_node("AddNoise", category="_for_testing/custom_sampling/noise", title="AddNoise")
def add_noise(model: MODEL, noise: NOISE, sigmas: Sigmas, latent_image: Latent) -> Latent:
    """A latent with as much noise as there is between the first and the last sigma."""
    return custom.add_noise(model, noise, sigmas, latent_image)
