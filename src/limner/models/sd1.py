"""Stable Diffusion 1: text to picture, inpainting (nine channels) and InstructPix2Pix (eight). Rombach et al. 2022.

Recognised by structure: a latent-diffusion UNet with cross-attention whose transformers project by 1×1 convolutions
and that takes no vector beside the text. Widths, depths and the context's width are read off the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping

from limner.models.family import Family, Mark, Prediction, has, lacks
from limner.models.lora_keys import UNET_LORA_NAMES
from limner.models.metadata import overrides
from limner.models.text.encode import EncodeSettings
from limner.models.text.recipe import TextEncoding, TextPart
from limner.models.unet import UNet, UNetConfig
from limner.sampling.latent_formats import FORMATS
from limner.weights.header import CheckpointHeader


def _projects_by_convolution(header: CheckpointHeader) -> bool:
    """Whether its transformers project by 1×1 convolutions (Stable Diffusion 1) and not by linear layers (2, XL)."""
    ranks = {len(entry.shape) for name, entry in header.tensors.items() if name.endswith(".proj_in.weight")}
    return ranks == {4}


def infer_config(header: CheckpointHeader, said: Mapping[str, object]) -> UNetConfig:
    """The UNet's dimensions from its tensors; `said` is the file's config."""
    return UNetConfig.from_state(header.shapes(), said)


def prediction(diffusion: CheckpointHeader, whole: CheckpointHeader) -> Prediction:
    """Noise, or velocity where the file carries the empty tensor `v_pred` (`ztsnr`: down to pure noise)."""
    said = dict(overrides(whole, "sampling"))
    marked = [name for name in ("v_pred", "ztsnr") if name in whole or name in diffusion]
    kind = said.pop("kind", None) or ("v" if "v_pred" in marked else "eps")
    settings = {name: value for name, value in said.items() if name in _SETTINGS}
    if "ztsnr" in marked:
        settings.setdefault("zsnr", True)
    return Prediction(str(kind), settings)


_SETTINGS = frozenset({"zsnr", "beta_schedule", "linear_start", "linear_end", "timesteps"})


def concat(config: UNetConfig) -> tuple[str, ...]:
    """What the extra input channels are: a mask and the masked picture, or the picture to edit."""
    extra = config.in_channels - config.out_channels
    if extra == config.out_channels + 1:
        return ("mask", "masked_image")
    return ("image",) if extra == config.out_channels else ()


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
    marks=(
        has("input_blocks.0.0.weight"),
        has("time_embed.0.weight"),
        has("out.2.weight"),
        Mark("cross-attention", lambda header: any(".attn2.to_k." in name for name in header)),
        Mark("transformers with convolutional proj_in", _projects_by_convolution),
        lacks("label_emb.0.0.weight"),
        Mark("no video layers", lambda header: not any(".time_stack." in name for name in header)),
    ),
    infer_config=infer_config,
    network=UNet,
    prediction=prediction,
    latent=FORMATS["SD15"],
    text=TEXT,
    context_width=lambda config: config.context_dim,
    concat=concat,
    lora=UNET_LORA_NAMES,
    modelspec="stable-diffusion-v1",
    memory_factor=1.0,
)
