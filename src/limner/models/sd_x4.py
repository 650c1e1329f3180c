"""The upscaler of Stable Diffusion 2, to four times the size. Rombach et al. 2022, section 4.4.

It works in a latent space of a quarter of the size, so the small picture is as large as the latent and is joined to it.
Noise is put on the small picture, and how much is told as a number. Recognised by the table of vectors for that number;
but for the smallest resolution its transformers look at the text twice and never at each other's pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.models.adm import noised, seed_of, signal_of_betas
from limner.models.conditions import standard_conditions
from limner.models.family import Family, Overrides, Prediction, has
from limner.models.lora_keys import UNET_LORA_NAMES
from limner.models.sd2 import TEXT
from limner.models.unet import UNet, UNetConfig
from limner.models.unet_marks import CLASSES, LINEAR, UNET, discrete
from limner.sampling.condition_values import repeat_to_batch
from limner.sampling.latent_formats import FORMATS
from limner.sampling.resize import common_upscale
from limner.weights.header import CheckpointHeader

if TYPE_CHECKING:
    from limner.models.base import BaseModel

BETAS: Mapping[str, Any] = {"beta_schedule": "linear", "linear_start": 1e-4, "linear_end": 0.02}
MOST_NOISE = 350
"""The last of the thousand times whose noise may be put on the small picture."""
HEADS = 8


def infer_config(header: CheckpointHeader, said: Overrides) -> UNetConfig:
    """The UNet's dimensions from its tensors; every attention has 8 heads unless `said`, the file's config, differs."""
    heads = {} if said.get("num_heads") or said.get("num_head_channels") else {"num_heads": HEADS}
    return UNetConfig.from_state(header.shapes(), {**said, **heads})


def prediction(diffusion: CheckpointHeader, whole: CheckpointHeader) -> Prediction:
    """Velocity."""
    return discrete(diffusion, whole, "v", BETAS)


def conditions(model: BaseModel, entries: Mapping[str, Any]) -> dict[str, Any]:
    """The small picture, noised, as `c_concat`, and the time whose noise that is as `y`.

    `concat_image`: (B, 3, h, w) in -1..1, resized to the latent; grey where there is none.
    `noise_augmentation`: 0..1, how much of the most noise. Its noise is that of the run's seed less 10.
    """
    found = standard_conditions(model, entries)
    noise: Tensor = entries["noise"]
    channels = model.config.in_channels - model.config.out_channels
    picture: Tensor | None = entries.get("concat_image")
    picture = torch.zeros_like(noise[:, :channels]) if picture is None else picture.to(noise)
    if picture.shape[1] != channels:
        raise BadInput(
            f"The picture to enlarge has {picture.shape[1]} channels, the model takes {channels}.",
            do="Use SD_4XUpscale_Conditioning with a picture in red, green and blue.",
        )
    if picture.shape[2:] != noise.shape[2:]:
        picture = common_upscale(picture, noise.shape[-1], noise.shape[-2], "bilinear", "center")
    amount = float(entries.get("noise_augmentation") or 0.0)
    time = round(MOST_NOISE * amount)
    if amount > 0:
        picture = noised(picture, signal_of_betas(BETAS)[time], seed_of(entries))
    return {**found, "c_concat": repeat_to_batch(picture, len(noise)), "y": torch.tensor([time])}


FAMILY = Family(
    name="sd_x4",
    title="Stable Diffusion x4 upscaler",
    marks=(*UNET, LINEAR, has(CLASSES)),
    infer_config=infer_config,
    network=UNet,
    prediction=prediction,
    latent=FORMATS["SD_X4"],
    text=TEXT,
    conditions=conditions,
    context_width=lambda config: config.context_dim,
    lora=UNET_LORA_NAMES,
    modelspec="stable-diffusion-v2-x4-upscaler",
    memory_factor=0.26,  # measured: benchmarks/memory_formula.py
    memory_text=2.0,
)
