"""Options of conditioning that certain model families read, and areas in time."""

from __future__ import annotations

from functools import partial
from typing import Annotated, NamedTuple

import torch

from limner.graph import Choice, Conditioning, Float, Image, Int, Latent, Text, node
from limner.models.text.t5 import T5Text
from limner.nodes.conditioning import with_values
from limner.nodes.kinds import CLIP
from limner.nodes.resize import resize_image

Fraction = Annotated[float, Float(min=0, max=1.0, step=0.01)]
Seconds = Annotated[float, Float(min=0.0, max=1000.0, step=0.1)]
Tokens = Annotated[int, Int(min=0, max=10000, step=1)]
Side = Annotated[int, Int(min=0, max=16384)]
Prompt = Annotated[str, Text(multiline=True, dynamic_prompts=True)]

family_node = partial(node, title="", style="v3")


class Pair(NamedTuple):
    """Both conditionings."""

    positive: Conditioning
    negative: Conditioning


class Prepared(NamedTuple):
    """Both conditionings and the latent to start from."""

    positive: Conditioning
    negative: Conditioning
    latent: Latent


@family_node("FluxGuidance", category="advanced/conditioning/flux", python_module="comfy_extras.nodes_flux")
def flux_guidance(
    conditioning: Conditioning, guidance: Annotated[float, Float(min=0.0, max=100.0, step=0.1)] = 3.5
) -> Conditioning:
    """The scale that guidance-distilled models are told.

    conditioning: what the picture shows.
    guidance: how strongly it is followed.
    """
    return with_values(conditioning, {"guidance": guidance})


@family_node("FluxDisableGuidance", category="advanced/conditioning/flux", python_module="comfy_extras.nodes_flux")
def flux_disable_guidance(conditioning: Conditioning) -> Conditioning:
    """No scale told to guidance-distilled models.

    conditioning: what the picture shows.
    """
    return with_values(conditioning, {"guidance": None})


@family_node(
    "ReferenceLatent",
    category="advanced/conditioning/edit_models",
    python_module="comfy_extras.nodes_edit_model",
)
def reference_latent(conditioning: Conditioning, latent: Latent | None = None) -> Conditioning:
    """One more picture that an editing model is shown.

    conditioning: what is to be done.
    latent: the picture, encoded.
    """
    if latent is None:
        return conditioning
    return _appended(conditioning, "reference_latents", latent["samples"])


def _appended(conditioning: Conditioning, key: str, value: object) -> Conditioning:
    """The conditioning with a value added to the list under a key."""
    return [[tensor, {**options, key: [*options.get(key, ()), value]}] for tensor, options in conditioning]


@family_node(
    "FluxKontextMultiReferenceLatentMethod",
    category="advanced/conditioning/flux",
    python_module="comfy_extras.nodes_flux",
    experimental=True,
)
def reference_method(
    conditioning: Conditioning,
    reference_latents_method: Annotated[str, Choice(("offset", "index", "uxo/uno"))],
) -> Conditioning:
    """Where an editing model sees several reference pictures.

    conditioning: what is to be done.
    reference_latents_method: beside each other, one behind the other, or as the UXO and UNO models do.
    """
    method = "uxo" if reference_latents_method == "uxo/uno" else reference_latents_method
    return with_values(conditioning, {"reference_latents_method": method})


@family_node("LTXVConditioning", category="conditioning/video_models", python_module="comfy_extras.nodes_lt")
def ltxv(
    positive: Conditioning,
    negative: Conditioning,
    frame_rate: Annotated[float, Float(min=0.0, max=1000.0, step=0.01)] = 25.0,
) -> Pair:
    """The frame rate that a video model is told.

    positive: what the video shows.
    negative: what it does not show.
    frame_rate: frames a second.
    """
    values = {"frame_rate": frame_rate}
    return Pair(with_values(positive, values), with_values(negative, values))


@node(
    "ConditioningStableAudio",
    category="conditioning",
    title="ConditioningStableAudio",
    python_module="comfy_extras.nodes_audio",
)
def stable_audio(
    positive: Conditioning, negative: Conditioning, seconds_start: Seconds = 0.0, seconds_total: Seconds = 47.0
) -> Pair:
    """Where in a piece the sound begins, and how long the piece is."""
    values = {"seconds_start": seconds_start, "seconds_total": seconds_total}
    return Pair(with_values(positive, values), with_values(negative, values))


@node(
    "ConditioningSetAreaPercentageVideo",
    category="conditioning",
    title="ConditioningSetAreaPercentageVideo",
    python_module="comfy_extras.nodes_video_model",
)
def set_area_percentage_video(
    conditioning: Conditioning,
    width: Fraction = 1.0,
    height: Fraction = 1.0,
    temporal: Fraction = 1.0,
    x: Fraction = 0,
    y: Fraction = 0,
    z: Fraction = 0,
    *,
    strength: Annotated[float, Float(min=0.0, max=10.0, step=0.01)] = 1.0,
) -> Conditioning:
    """The conditioning for a box of a video only, in parts of its sides; temporal and z are in time."""
    area = ("percentage", temporal, height, width, z, y, x)
    return with_values(conditioning, {"area": area, "strength": strength, "set_area_to_bounds": False})


@family_node(
    "StableCascade_StageB_Conditioning",
    category="conditioning/stable_cascade",
    python_module="comfy_extras.nodes_stable_cascade",
)
def stable_cascade(conditioning: Conditioning, stage_c: Latent) -> Conditioning:
    """What the first stage has made, for the second.

    conditioning: what the picture shows.
    stage_c: the latent of the first stage.
    """
    return with_values(conditioning, {"stable_cascade_prior": stage_c["samples"]})


@family_node(
    "SD_4XUpscale_Conditioning",
    category="conditioning/upscale_diffusion",
    python_module="comfy_extras.nodes_sdupscale",
)
def upscale_4x(
    images: Image,
    positive: Conditioning,
    negative: Conditioning,
    scale_ratio: Annotated[float, Float(min=0.0, max=10.0, step=0.01)] = 4.0,
    noise_augmentation: Annotated[float, Float(min=0.0, max=1.0, step=0.001)] = 0.0,
) -> Prepared:
    """What an upscaling model is shown: the small picture.

    images: the picture.
    positive: what it shows.
    negative: what it does not show.
    scale_ratio: how many times larger it becomes.
    noise_augmentation: how much noise is added to the small picture.
    """
    width, height = (max(1, round(side * scale_ratio)) for side in (images.shape[2], images.shape[1]))
    small = resize_image(images * 2 - 1, width // 4, height // 4, "bilinear", "center").movedim(-1, 1)
    values = {"concat_image": small, "noise_augmentation": noise_augmentation}
    latent = torch.zeros(len(images), 4, height // 4, width // 4)
    return Prepared(with_values(positive, values), with_values(negative, values), {"samples": latent})


@family_node(
    "CLIPTextEncodeControlnet",
    category="_for_testing/conditioning",
    python_module="comfy_extras.nodes_cond",
    experimental=True,
)
def encode_for_control(
    clip: CLIP,
    conditioning: Conditioning,
    text: Prompt,
) -> Conditioning:
    """A text for control networks only, beside the one that the conditioning has.

    clip: the text encoder.
    conditioning: what the diffusion model is told.
    text: what control networks are told.
    """
    cond, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    return with_values(conditioning, {"cross_attn_controlnet": cond, "pooled_output_controlnet": pooled})


@family_node(
    "T5TokenizerOptions",
    category="_for_testing/conditioning",
    python_module="comfy_extras.nodes_cond",
    experimental=True,
)
def t5_tokenizer_options(clip: CLIP, min_padding: Tokens = 0, min_length: Tokens = 0) -> CLIP:
    """Text encoders whose T5 lays prompts out in another way.

    clip: the text encoders.
    min_padding: tokens of padding behind every prompt.
    min_length: tokens to which prompts are padded at least.
    """
    clip = clip.clone()
    for encoder in clip.encoders:
        if encoder.kind.network is T5Text:
            clip.set_tokenizer_option(f"{encoder.name}_min_padding", min_padding)
            clip.set_tokenizer_option(f"{encoder.name}_min_length", min_length)
    return clip


@family_node("CLIPTextEncodePixArtAlpha", category="advanced/conditioning", python_module="comfy_extras.nodes_pixart")
def encode_for_pixart_alpha(width: Side = 1024, height: Side = 1024, *, text: Prompt, clip: CLIP) -> Conditioning:
    """A text and the size that PixArt-α is told.

    width: of the picture in pixels.
    height: of the picture in pixels.
    text: what the picture shows.
    clip: the text encoder.
    """
    sizes = {"width": width, "height": height}
    return clip.encode_from_tokens_scheduled(clip.tokenize(text), add_dict=sizes)


@family_node("CLIPTextEncodeHiDream", category="advanced/conditioning", python_module="comfy_extras.nodes_hidream")
def encode_for_hidream(clip: CLIP, clip_l: Prompt, clip_g: Prompt, t5xxl: Prompt, llama: Prompt) -> Conditioning:
    """A text for each text encoder of HiDream.

    clip: the text encoders.
    clip_l: what CLIP-L reads.
    clip_g: what CLIP-G reads.
    t5xxl: what T5 reads.
    llama: what Llama reads.
    """
    texts = {"l": clip_l, "g": clip_g, "t5xxl": t5xxl, "llama": llama}
    tokens = {key: rows for key, text in texts.items() if (rows := clip.tokenize(text).get(key)) is not None}
    return clip.encode_from_tokens_scheduled(tokens)
