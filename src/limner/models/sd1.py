"""Stable Diffusion 1: text to picture, inpainting (nine channels) and InstructPix2Pix (eight). Rombach et al. 2022.

Recognised by structure: a latent-diffusion UNet with cross-attention whose transformers project by 1×1 convolutions
and that takes no vector beside the text. Widths, depths and the context's width are read off the tensors.
"""

from __future__ import annotations

from limner.models.family import Family, Prediction, Variant, lacks
from limner.models.lora_keys import UNET_LORA_NAMES
from limner.models.text.encode import EncodeSettings
from limner.models.text.recipe import TextEncoding, TextPart
from limner.models.unet import UNet
from limner.models.unet_marks import CLASSES, CONVOLUTIONAL, UNET, VECTOR, concat, discrete, edits, infer_config
from limner.sampling.latent_formats import FORMATS
from limner.weights.header import CheckpointHeader


def prediction(diffusion: CheckpointHeader, whole: CheckpointHeader) -> Prediction:
    """Noise, or velocity where the file carries the empty tensor `v_pred` (`ztsnr`: down to pure noise)."""
    return discrete(diffusion, whole)


TEXT = TextEncoding(
    types=("stable_diffusion",),
    parts=(
        TextPart(
            "clip_l",
            "l",
            ("cond_stage_model.", "text_encoder.", "conditioner.embedders.0."),
            EncodeSettings(),
        ),
    ),
    default_for=(("clip_l",),),
)

FAMILY = Family(
    name="sd1",
    title="Stable Diffusion 1",
    marks=(*UNET, CONVOLUTIONAL, lacks(VECTOR), lacks(CLASSES)),
    infer_config=infer_config,
    network=UNet,
    prediction=prediction,
    latent=FORMATS["SD15"],
    text=TEXT,
    context_width=lambda config: config.context_dim,
    concat=concat,
    variants=(Variant("sd1_ip2p", "InstructPix2Pix", edits),),
    lora=UNET_LORA_NAMES,
    modelspec="stable-diffusion-v1",
    memory_factor=0.46,  # measured: benchmarks/memory_formula.py
    memory_text=1.0,
)
