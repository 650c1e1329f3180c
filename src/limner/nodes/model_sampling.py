"""What a model is told of its noise levels and of what it predicts, put in the place of its own."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch

from limner.graph import Choice, Float, Int, Latent, node
from limner.nodes.kinds import MODEL
from limner.nodes.sigmas import token_count
from limner.sampling.latent_formats import FORMATS
from limner.sampling.model_sampling import ModelSampling, make_sampling
from limner.sampling.schedules import token_shift

Level = Annotated[float, Float(min=0.0, max=1000.0, step=0.001, round=False)]
Shift = Annotated[float, Float(min=0.0, max=100.0, step=0.01)]
Side = Annotated[int, Int(min=16, max=16384, step=8)]

model_node = partial(node, category="advanced/model", python_module="comfy_extras.nodes_model_advanced")

DISCRETE = {"eps": "eps", "v_prediction": "v", "lcm": "lcm", "x0": "x0", "img_to_img": "img2img"}
CONTINUOUS = {
    "v_prediction": "v_edm",
    "edm": "edm",
    "edm_playground_v2.5": "edm",
    "eps": "eps_edm",
    "cosmos_rflow": "cosmos_rf",
}
PLAYGROUND = FORMATS["SDXL_Playground_2_5"]
"""Li et al. 2024: its latents are normalised by their own statistics."""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def with_sampling(model: MODEL, sampling: ModelSampling) -> MODEL:
    """A copy of the model with other noise levels."""
    changed = model.clone()
    changed.add_object_patch("model_sampling", sampling)
    return changed


@model_node("ModelSamplingDiscrete", title="ModelSamplingDiscrete")
def discrete(model: MODEL, sampling: Annotated[str, Choice(tuple(DISCRETE))], zsnr: bool = False) -> MODEL:
    """A thousand discrete times; `sampling` is what the network predicts, zsnr starts from pure noise."""
    return with_sampling(model, make_sampling(DISCRETE[sampling], zsnr=zsnr))


@model_node("ModelSamplingContinuousEDM", title="ModelSamplingContinuousEDM")
def continuous_edm(
    model: MODEL,
    sampling: Annotated[str, Choice(tuple(CONTINUOUS))],
    sigma_max: Level = 120.0,
    sigma_min: Level = 0.002,
) -> MODEL:
    """Continuous noise levels; `sampling` is what the network predicts."""
    levels = make_sampling(CONTINUOUS[sampling], sigma_min=sigma_min, sigma_max=sigma_max)
    changed = with_sampling(model, levels)
    if sampling == "edm_playground_v2.5":
        changed.add_object_patch("latent_format", PLAYGROUND)
    return changed


@model_node("ModelSamplingContinuousV", title="ModelSamplingContinuousV")
def continuous_v(
    model: MODEL,
    sampling: Annotated[str, Choice(("v_prediction",))],  # noqa: ARG001 - a choice of one
    sigma_max: Level = 500.0,
    sigma_min: Level = 0.03,
) -> MODEL:
    """Continuous noise levels told as angles, for networks that predict the velocity."""
    return with_sampling(model, make_sampling("v_continuous", sigma_min=sigma_min, sigma_max=sigma_max))


@model_node("ModelSamplingStableCascade", title="ModelSamplingStableCascade")
def stable_cascade(model: MODEL, shift: Shift = 2.0) -> MODEL:
    """A cosine schedule, shifted towards noise."""
    return with_sampling(model, make_sampling("cascade", shift=shift))


@model_node("ModelSamplingSD3", title="ModelSamplingSD3")
def sd3(model: MODEL, shift: Shift = 3.0) -> MODEL:
    """A rectified flow's levels, shifted towards noise; times go up to 1000."""
    return with_sampling(model, make_sampling("flow", shift=shift, multiplier=1000.0))


@model_node("ModelSamplingAuraFlow", title="ModelSamplingAuraFlow")
def aura_flow(model: MODEL, shift: Shift = 1.73) -> MODEL:
    """A rectified flow's levels, shifted towards noise; times go up to 1."""
    return with_sampling(model, make_sampling("flow", shift=shift, multiplier=1.0))


@model_node("ModelSamplingFlux", title="ModelSamplingFlux")
def flux(
    model: MODEL, max_shift: Shift = 1.15, base_shift: Shift = 0.5, width: Side = 1024, height: Side = 1024
) -> MODEL:
    """A flow's levels, shifted by the picture's size: base_shift at 256 tokens of 16×16 pixels, max_shift at 4096."""
    tokens = width * height / (8 * 8 * 2 * 2)
    shift = token_shift(tokens, (256, base_shift), (4096, max_shift))
    return with_sampling(model, make_sampling("flux", shift=shift))


@model_node("ModelSamplingLTXV", title="", python_module="comfy_extras.nodes_lt", style="v3")
def ltxv(model: MODEL, max_shift: Shift = 2.05, base_shift: Shift = 0.95, latent: Latent | None = None) -> MODEL:
    """A flow's levels, shifted by the number of the latent's cells.

    model: the diffusion model.
    max_shift: the shift at 4096 cells.
    base_shift: the shift at 1024 cells.
    latent: what is counted; 4096 cells without one.
    """
    shift = token_shift(token_count(latent), (1024, base_shift), (4096, max_shift))
    return with_sampling(model, make_sampling("flux", shift=shift))


@node(
    "ModelComputeDtype",
    category="advanced/debug/model",
    title="ModelComputeDtype",
    python_module="comfy_extras.nodes_model_advanced",
)
def compute_dtype(model: MODEL, dtype: Annotated[str, Choice(("default", *DTYPES))]) -> MODEL:
    """The model computing in this precision, whatever its weights are kept in."""
    changed = model.clone()
    if dtype in DTYPES:
        changed.set_model_compute_dtype(DTYPES[dtype])
    return changed
