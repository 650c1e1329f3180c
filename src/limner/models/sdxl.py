"""Stable Diffusion XL and what was distilled from it: SSD-1B, KOALA, Vega, Playground 2.5. Podell et al. 2023.

Recognised by structure: a UNet with linear projections that takes a vector, has no transformers at full resolution and
has some at the smallest. The vector is the pooled text and the sizes of the picture. Builds that differ in depth are
variants; inpainting has nine channels, InstructPix2Pix eight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limner.models.adm import pooled_text, sdxl_vector, sizes
from limner.models.base import ModelType
from limner.models.conditions import standard_conditions
from limner.models.family import Family, Mark, Prediction, Variant, has
from limner.models.lora_keys import UNET_LORA_NAMES
from limner.models.text.encode import Encoded, EncodeSettings
from limner.models.text.recipe import TextEncoding, TextPart
from limner.models.unet import UNet, UNetConfig
from limner.models.unet_marks import (
    LINEAR,
    NOT_AT_FIRST,
    UNET,
    VECTOR,
    concat,
    discrete,
    edits,
    infer_config,
    last_transformers,
    marked,
    number,
)
from limner.sampling.latent_formats import FORMATS
from limner.weights.header import CheckpointHeader

if TYPE_CHECKING:
    from limner.models.base import BaseModel

PICTURES = 2 * 1280
"""Width of unCLIP's vector of CLIP-G: what a picture says in the pooled text's place, and how much noise is on it."""


def prediction(diffusion: CheckpointHeader, whole: CheckpointHeader) -> Prediction:
    """Noise, or what tensors beside the network say.

    `edm_mean` and `edm_std`: Playground 2.5, clean pictures over continuous levels, in a latent space of its own (Li
    et al. 2024). `edm_vpred.sigma_max` (and `.sigma_min`): velocity over continuous levels (CosXL).
    """
    if marked(diffusion, whole, "edm_mean") and marked(diffusion, whole, "edm_std"):
        settings = {"sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0}
        return Prediction("edm", settings, FORMATS["SDXL_Playground_2_5"])
    if marked(diffusion, whole, "edm_vpred.sigma_max"):
        ends = {"sigma_max": 120.0, "sigma_min": 0.002}
        return Prediction(
            "v_edm",
            {name: number(diffusion, whole, f"edm_vpred.{name}", default) for name, default in ends.items()},
        )
    return discrete(diffusion, whole)


def vector(model: BaseModel, entries: Mapping[str, Any]) -> Tensor | None:
    """The pooled text of CLIP-G, or pictures in its place, and the size, crop and target size of the picture."""
    names = ("width", "height", "crop_w", "crop_h", "target_width", "target_height")
    return sdxl_vector(pooled_text(model.family.title, entries, PICTURES), **sizes(entries, names))


def conditions(model: BaseModel, entries: Mapping[str, Any]) -> dict[str, Any]:
    """As usual; but an editing model of velocity over continuous levels (CosXL Edit) is shown a scaled latent."""
    picture = entries.get("concat_latent_image")
    if picture is not None and edits(model.config) and model.model_type is ModelType.V_PREDICTION_EDM:
        entries = {**entries, "concat_latent_image": model.process_latent_in(picture)}
    return standard_conditions(model, entries)


def combine(outputs: Mapping[str, Encoded]) -> Encoded:
    """The tokens of CLIP-L and CLIP-G side by side, as many as both have; the vector is CLIP-G's."""
    clip_l, clip_g = outputs["clip_l"], outputs["clip_g"]
    length = min(clip_l.cond.shape[1], clip_g.cond.shape[1])
    return Encoded(torch.cat((clip_l.cond[:, :length], clip_g.cond[:, :length]), dim=-1), clip_g.pooled)


CLIP_G = EncodeSettings(layer=-2, final_norm=False, project=True, pad=0)

TEXT = TextEncoding(
    types=("sdxl", "stable_diffusion"),
    parts=(
        TextPart(
            "clip_l",
            "l",
            ("conditioner.embedders.0.transformer.", "conditioner.embedders.0.", "text_encoder."),
            EncodeSettings(layer=-2, final_norm=False),
        ),
        TextPart("clip_g", "g", ("conditioner.embedders.1.model.", "text_encoder_2."), CLIP_G),
    ),
    combine=combine,
    default_for=(("clip_l", "clip_g"),),
)


def _depths(*down: int, middle: int | None = None) -> Callable[[UNetConfig], bool]:
    """Whether the transformers on the way down, and the one in the middle where it is said, are this deep."""

    def test(config: UNetConfig) -> bool:
        return config.transformer_depth == down and middle in (None, config.transformer_depth_middle)

    return test


FAMILY = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    marks=(
        *UNET,
        LINEAR,
        has(VECTOR),
        NOT_AT_FIRST,
        Mark("transformers at the smallest resolution", last_transformers),
    ),
    infer_config=infer_config,
    network=UNet,
    prediction=prediction,
    latent=FORMATS["SDXL"],
    text=TEXT,
    conditions=conditions,
    vector=vector,
    context_width=lambda config: config.context_dim,
    concat=concat,
    variants=(
        Variant("sdxl_ip2p", "InstructPix2Pix", edits),
        Variant("ssd1b", "SSD-1B", _depths(0, 0, 2, 2, 4, 4, middle=-1)),
        Variant("vega", "Segmind Vega", _depths(0, 0, 1, 1, 2, 2, middle=-1)),
        Variant("koala_700m", "KOALA 700M", _depths(0, 2, 5)),
        Variant("koala_1b", "KOALA 1B", _depths(0, 2, 6)),
    ),
    lora=UNET_LORA_NAMES,
    modelspec="stable-diffusion-xl-v1-base",
    memory_factor=0.325,  # measured: benchmarks/memory_formula.py
    memory_text=3.0,
)
