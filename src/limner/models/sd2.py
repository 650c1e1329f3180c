"""Stable Diffusion 2 and 2.1: text to picture by noise or velocity, inpainting, and unCLIP. Rombach et al. 2022.

Recognised by structure: a latent-diffusion UNet whose transformers project by linear layers. It takes no vector beside
the text, or that of pictures (unCLIP; Ramesh et al. 2022, section 2.1) and then has transformers at full resolution,
which SDXL lacks. Attention scores must be float32: float16 cannot hold them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limner.models.adm import unclip_vector
from limner.models.family import Family, Mark, Overrides, Prediction, Variant, lacks
from limner.models.lora_keys import UNET_LORA_NAMES
from limner.models.text.encode import EncodeSettings
from limner.models.text.recipe import TextEncoding, TextPart
from limner.models.unet import UNet, UNetConfig
from limner.models.unet_marks import CLASSES, LINEAR, UNET, VECTOR, concat, discrete, first_transformers
from limner.models.unet_marks import infer_config as unet_config
from limner.sampling.latent_formats import FORMATS
from limner.weights.header import CheckpointHeader

if TYPE_CHECKING:
    from limner.models.base import BaseModel

TELLING = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
"""A tensor whose spread tells models of velocity from models of noise, as no published file says which it is."""
SPREAD = 0.09


def _no_vector_or_pictures(header: CheckpointHeader) -> bool:
    if VECTOR not in header:
        return True
    texts = [entry.shape[1] for name, entry in header.tensors.items() if name.endswith(".attn2.to_k.weight")]
    return first_transformers(header) and header.shape(VECTOR)[1] >= max(texts, default=0)


def infer_config(header: CheckpointHeader, said: Overrides) -> UNetConfig:
    """The UNet's dimensions from its tensors; `said` is the file's config."""
    return replace(unet_config(header, said), attn_precision=torch.float32)


def prediction(diffusion: CheckpointHeader, whole: CheckpointHeader) -> Prediction:
    """Velocity where the file carries `v_pred`, or looks like one of those trained on it; else noise."""
    return discrete(diffusion, whole, "v" if _looks_like_velocity(diffusion) else "eps")


def _looks_like_velocity(diffusion: CheckpointHeader) -> bool:
    if TELLING not in diffusion or diffusion.shape("input_blocks.0.0.weight")[1] != diffusion.shape("out.2.weight")[0]:
        return False
    told = diffusion.tensor(TELLING)
    return not told.is_meta and float(told.float().std()) > SPREAD


def vector(model: BaseModel, entries: Mapping[str, Any]) -> Tensor | None:
    """The pictures that unCLIP models are shown; zeros where there are none."""
    width = model.config.adm_in_channels
    return None if width is None else unclip_vector(entries, width)


TEXT = TextEncoding(
    types=("stable_diffusion",),
    parts=(
        TextPart(
            "clip_h",
            "h",
            ("cond_stage_model.model.", "cond_stage_model.", "text_encoder."),
            EncodeSettings(layer=-2, pad=0),
        ),
    ),
    default_for=(("clip_h",),),
)

FAMILY = Family(
    name="sd2",
    title="Stable Diffusion 2",
    marks=(
        *UNET,
        LINEAR,
        lacks(CLASSES),
        Mark("no vector, or one of pictures", _no_vector_or_pictures),
    ),
    infer_config=infer_config,
    network=UNet,
    prediction=prediction,
    latent=FORMATS["SD15"],
    text=TEXT,
    vector=vector,
    context_width=lambda config: config.context_dim,
    concat=concat,
    variants=(Variant("sd2_unclip", "unCLIP", lambda config: config.adm_in_channels is not None),),
    lora=UNET_LORA_NAMES,
    modelspec="stable-diffusion-v2",
    memory_factor=0.46,  # measured: benchmarks/memory_formula.py
    memory_text=1.0,
)
