"""Prompts for several text encoders at once, and prompts with pictures to edit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from torch import Tensor

from limner.graph import Choice, Conditioning, Float, Image, Int, Text, node
from limner.models.qwen_image import SYSTEM_EDIT, VISION, chat
from limner.nodes.kinds import CLIP, VAE
from limner.nodes.resize import resize_image

Prompt = Annotated[str, Text(multiline=True, dynamic_prompts=True)]
Side = Annotated[int, Int(min=0, max=16384)]

SEEN, SEEN_OF_SEVERAL, EDITED = 1024**2, 384**2, 1024**2
"""Pixels of a picture that the text encoder reads, alone or with others, and of one that the model edits."""

encode_node = partial(node, category="advanced/conditioning", title="", style="v3")


def equally_long(clip: CLIP, tokens: dict[str, Any], keys: Sequence[str] = ("l", "g")) -> dict[str, Any]:
    """Tokens whose rows are equally many for all encoders of `keys`: a shorter one goes on with the empty prompt."""
    rows = {key: list(tokens[key]) for key in keys if key in tokens}
    longest = max(map(len, rows.values()), default=0)
    if any(len(each) < longest for each in rows.values()):
        empty = clip.tokenize("")
        for key, each in rows.items():
            while len(each) < longest:
                each.extend(empty[key])
    return {**tokens, **rows}


@encode_node("CLIPTextEncodeSDXL", python_module="comfy_extras.nodes_clip_sdxl")
def sdxl(
    clip: CLIP,
    width: Side = 1024,
    height: Side = 1024,
    crop_w: Side = 0,
    crop_h: Side = 0,
    target_width: Side = 1024,
    target_height: Side = 1024,
    *,
    text_g: Prompt,
    text_l: Prompt,
) -> Conditioning:
    """A text for each text encoder of Stable Diffusion XL, and the sizes that the model is told, in pixels.

    clip: the text encoders.
    width: of the picture as it seems before it is cut.
    height: of the picture as it seems before it is cut.
    crop_w: how much seems to be cut off at the left.
    crop_h: how much seems to be cut off at the top.
    target_width: of the picture that is made.
    target_height: of the picture that is made.
    text_g: what CLIP-G reads.
    text_l: what CLIP-L reads.
    """
    said = {
        "width": width, "height": height, "crop_w": crop_w, "crop_h": crop_h,
        "target_width": target_width, "target_height": target_height,
    }  # fmt: skip
    tokens = clip.tokenize(text_g)
    other = clip.tokenize(text_l)
    tokens = {**tokens, "l": other["l"]} if "l" in other else tokens
    return clip.encode_from_tokens_scheduled(equally_long(clip, tokens), add_dict=said)


@encode_node("CLIPTextEncodeSDXLRefiner", python_module="comfy_extras.nodes_clip_sdxl")
def sdxl_refiner(
    ascore: Annotated[float, Float(min=0.0, max=1000.0, step=0.01)] = 6.0,
    width: Side = 1024,
    height: Side = 1024,
    *,
    text: Prompt,
    clip: CLIP,
) -> Conditioning:
    """A text for the refiner of Stable Diffusion XL, with the size and the score that it is told.

    ascore: how good the picture looks, about 6 for what is wanted and 2.5 for what is not.
    width: of the picture in pixels.
    height: of the picture in pixels.
    text: what the picture shows.
    clip: the text encoder.
    """
    said = {"aesthetic_score": ascore, "width": width, "height": height}
    return clip.encode_from_tokens_scheduled(clip.tokenize(text), add_dict=said)


@encode_node("CLIPTextEncodeSD3", python_module="comfy_extras.nodes_sd3")
def sd3(
    clip: CLIP,
    clip_l: Prompt,
    clip_g: Prompt,
    t5xxl: Prompt,
    empty_padding: Annotated[str, Choice(("none", "empty_prompt"))],
) -> Conditioning:
    """A text for each text encoder of Stable Diffusion 3.

    clip: the text encoders.
    clip_l: what CLIP-L reads.
    clip_g: what CLIP-G reads.
    t5xxl: what T5 reads.
    empty_padding: whether an encoder whose text is empty says nothing, or reads the empty prompt.
    """
    texts = {"g": clip_g, "l": clip_l, "t5xxl": t5xxl}
    tokens: dict[str, Any] = {}
    for key, text in texts.items():
        rows = clip.tokenize(text).get(key)
        if rows is not None:
            tokens[key] = [] if empty_padding == "none" and not text else rows
    return clip.encode_from_tokens_scheduled(equally_long(clip, tokens))


@encode_node("CLIPTextEncodeFlux", category="advanced/conditioning/flux", python_module="comfy_extras.nodes_flux")
def flux(
    clip: CLIP,
    clip_l: Prompt,
    t5xxl: Prompt,
    guidance: Annotated[float, Float(min=0.0, max=100.0, step=0.1)] = 3.5,
) -> Conditioning:
    """A text for each text encoder of Flux, and the scale that guidance-distilled models are told.

    clip: the text encoders.
    clip_l: what CLIP-L reads.
    t5xxl: what T5 reads.
    guidance: how strongly the texts are followed.
    """
    tokens = clip.tokenize(clip_l)
    other = clip.tokenize(t5xxl)
    tokens = {**tokens, "t5xxl": other["t5xxl"]} if "t5xxl" in other else tokens
    return clip.encode_from_tokens_scheduled(tokens, add_dict={"guidance": guidance})


@encode_node("TextEncodeQwenImageEdit", python_module="comfy_extras.nodes_qwen")
def qwen_image_edit(clip: CLIP, prompt: Prompt, vae: VAE | None = None, image: Image | None = None) -> Conditioning:
    """What is to be done with a picture.

    clip: the text encoder, which also sees the picture.
    prompt: what is to be done.
    vae: the autoencoder by which the model sees the picture too.
    image: the picture.
    """
    if image is None:
        return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    seen = of_area(image, SEEN)
    references = [] if vae is None else [vae.encode(seen)]
    return _referring(clip.encode_from_tokens_scheduled(clip.tokenize(prompt, images=[seen])), references)


@encode_node("TextEncodeQwenImageEditPlus", python_module="comfy_extras.nodes_qwen")
def qwen_image_edit_plus(
    clip: CLIP,
    prompt: Prompt,
    vae: VAE | None = None,
    image1: Image | None = None,
    image2: Image | None = None,
    image3: Image | None = None,
) -> Conditioning:
    """What is to be done with up to three pictures, which the prompt calls Picture 1, Picture 2 and Picture 3.

    clip: the text encoder, which also sees the pictures.
    prompt: what is to be done.
    vae: the autoencoder by which the model sees the pictures too.
    image1, image2, image3: the pictures.
    """
    given = [(number, image) for number, image in enumerate((image1, image2, image3), 1) if image is not None]
    named = "".join(f"Picture {number}: {VISION}" for number, _ in given)
    seen = [of_area(image, SEEN_OF_SEVERAL) for _, image in given]
    references = [] if vae is None else [vae.encode(of_area(image, EDITED, step=8)) for _, image in given]
    tokens = clip.tokenize(named + prompt, images=seen, llama_template=chat(SYSTEM_EDIT))
    return _referring(clip.encode_from_tokens_scheduled(tokens), references)


def of_area(image: Tensor, pixels: int, step: int = 1) -> Tensor:
    """The picture's three colours with about so many pixels in its own shape, sides multiples of `step`.

    image: (B, H, W, 3 or more) → (B, h, w, 3).
    """
    scale = math.sqrt(pixels / (image.shape[1] * image.shape[2]))
    height, width = (max(step, round(side * scale / step) * step) for side in image.shape[1:3])
    return resize_image(image, width, height, "area")[..., :3]


def _referring(conditioning: Conditioning, references: Sequence[Tensor]) -> Conditioning:
    """The conditioning with more pictures that the model is shown."""
    if not references:
        return conditioning
    return [
        [tensor, {**options, "reference_latents": [*options.get("reference_latents", ()), *references]}]
        for tensor, options in conditioning
    ]
