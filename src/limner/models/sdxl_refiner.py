"""The refiner of Stable Diffusion XL: the last steps of a picture that another model began. Podell et al. 2023.

Recognised by structure: a UNet with linear projections that takes a vector and has transformers neither at full nor at
the smallest resolution of its way down. The vector is the pooled text, the size of the picture and how good it looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from limner.models.adm import pooled_text, refiner_vector, sizes
from limner.models.family import Family, Mark, Prediction, has
from limner.models.lora_keys import UNET_LORA_NAMES
from limner.models.sdxl import CLIP_G, PICTURES
from limner.models.text.recipe import TextEncoding, TextPart
from limner.models.unet import UNet
from limner.models.unet_marks import (
    LINEAR,
    NOT_AT_FIRST,
    UNET,
    VECTOR,
    concat,
    discrete,
    infer_config,
    last_transformers,
)
from limner.sampling.latent_formats import FORMATS
from limner.weights.header import CheckpointHeader

if TYPE_CHECKING:
    from limner.models.base import BaseModel


def prediction(diffusion: CheckpointHeader, whole: CheckpointHeader) -> Prediction:
    """Noise, unless the file says otherwise."""
    return discrete(diffusion, whole)


def vector(model: BaseModel, entries: Mapping[str, Any]) -> Tensor | None:
    """The pooled text, or pictures in its place, the size and crop of the picture, and its score.

    The score is `aesthetic_score`; where nobody says one it is that of the branch, `prompt_type`.
    """
    pooled = pooled_text(model.family.title, entries, PICTURES)
    said = sizes(entries, ("width", "height", "crop_w", "crop_h"))
    score, branch = entries.get("aesthetic_score"), str(entries.get("prompt_type") or "")
    return refiner_vector(pooled, **said, aesthetic_score=score, prompt_type=branch)


TEXT = TextEncoding(
    types=("stable_diffusion",),
    parts=(TextPart("clip_g", "g", ("conditioner.embedders.0.model.", "text_encoder_2."), CLIP_G),),
    default_for=(("clip_g",),),
)

FAMILY = Family(
    name="sdxl_refiner",
    title="Stable Diffusion XL refiner",
    marks=(
        *UNET,
        LINEAR,
        has(VECTOR),
        NOT_AT_FIRST,
        Mark("no transformers at the smallest resolution", lambda header: not last_transformers(header)),
    ),
    infer_config=infer_config,
    network=UNet,
    prediction=prediction,
    latent=FORMATS["SDXL"],
    text=TEXT,
    vector=vector,
    context_width=lambda config: config.context_dim,
    concat=concat,
    lora=UNET_LORA_NAMES,
    modelspec="stable-diffusion-xl-v1-refiner",
    memory_factor=0.385,  # measured: benchmarks/memory_formula.py
    memory_text=2.0,
)
