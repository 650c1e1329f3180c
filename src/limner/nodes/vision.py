"""What pictures say: vision encoders, style models, and conditioning by them."""

from __future__ import annotations

from math import log
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.graph import Choice, Conditioning, Float, Folder, Image, Run, node
from limner.models.load import load_checkpoint
from limner.models.load_vision import clip_vision_beside, load_clip_vision
from limner.models.reading import read_header
from limner.models.style_models import load_style_model
from limner.nodes._vocabularies import vocabularies
from limner.nodes.kinds import CLIP, CLIP_VISION, CLIP_VISION_OUTPUT, MODEL, STYLE_MODEL, VAE

StyleStrength = Annotated[float, Float(min=0.0, max=10.0, step=0.001)]


class Shown(NamedTuple):
    """What a checkpoint holds whose model is shown pictures."""

    MODEL: MODEL
    CLIP: CLIP | None
    VAE: VAE
    CLIP_VISION: CLIP_VISION | None


@node("unCLIPCheckpointLoader", category="loaders", title="unCLIPCheckpointLoader")
def load_unclip_file(run: Run, ckpt_name: Annotated[str, Folder("checkpoints")]) -> Shown:
    """A checkpoint with the vision encoder that its model was trained with."""
    folders = run.store.folders
    path = folders.path("checkpoints", ckpt_name)
    parts = load_checkpoint(path, run.memory, folders.roots("embeddings"), vocabularies(run))
    return Shown(*parts, clip_vision_beside(read_header(path, run.memory), run.memory))


@node("CLIPVisionLoader", category="loaders", title="Load CLIP Vision")
def load_vision_file(run: Run, clip_name: Annotated[str, Folder("clip_vision")]) -> CLIP_VISION:
    """A vision encoder from a file of its own."""
    return load_clip_vision(run.store.folders.path("clip_vision", clip_name), run.memory)


@node("CLIPVisionEncode", category="conditioning", title="CLIP Vision Encode")
def encode_picture(
    clip_vision: CLIP_VISION | None, image: Image, crop: Annotated[str, Choice(("center", "none"))]
) -> CLIP_VISION_OUTPUT:
    """What a vision encoder says of pictures, which are cut to squares about their centre or distorted to squares."""
    if clip_vision is None:
        raise BadInput(
            "There is no vision encoder to encode the picture with.",
            why="The checkpoint that CLIP_VISION comes from holds none.",
            do="Load one with Load CLIP Vision.",
        )
    return clip_vision.encode_image(image, crop=crop == "center")


@node("StyleModelLoader", category="loaders", title="Load Style Model")
def load_style_file(run: Run, style_model_name: Annotated[str, Folder("style_models")]) -> STYLE_MODEL:
    """A style model: FLUX.1 Redux or a T2I style adapter."""
    return load_style_model(run.store.folders.path("style_models", style_model_name), run.memory)


@node("StyleModelApply", category="conditioning/style_model", title="Apply Style Model")
def apply_style(
    conditioning: Conditioning,
    style_model: STYLE_MODEL,
    clip_vision_output: CLIP_VISION_OUTPUT,
    strength: StyleStrength = 1.0,
    *,
    strength_type: Annotated[str, Choice(("multiply", "attn_bias"))],
) -> Conditioning:
    """The text followed by the tokens of pictures: scaled, or looked at more or less by every other token.

    strength: how much the pictures say beside the text.
    """
    pictures: Tensor = style_model.get_cond(clip_vision_output).flatten(0, 1).unsqueeze(0)
    biased = strength_type == "attn_bias"
    if not biased:
        pictures = pictures * strength
    found = []
    for text, entries in conditioning:
        if text.shape[-1] != pictures.shape[-1]:
            raise BadInput(
                f"The style's tokens have {pictures.shape[-1]} channels, the text's {text.shape[-1]}.",
                why="A style model belongs to one family of models.",
                do="Use FLUX.1 Redux with Flux, a T2I style adapter with Stable Diffusion 1.",
            )
        changed = dict(entries)
        if "attention_mask" in entries or (biased and strength != 1.0):
            bias = (log(strength) if strength > 0 else -torch.inf) if biased else 0.0
            changed["attention_mask"] = _widened(text, entries, pictures.shape[1], bias)
            changed.setdefault("attention_mask_img_shape", (1, 1))
        tokens = pictures.to(text).expand(len(text), -1, -1)
        found.append([torch.cat((text, tokens), dim=1), changed])
    return found


def _widened(text: Tensor, entries: dict[str, Any], tokens: int, bias: float) -> Tensor:
    """A mask added to attention, of text, `tokens` new ones and the picture; (B, L, L), L of all three.

    It has the old mask where that was, and `bias` from every token but the new ones to the new ones.
    """
    length = text.shape[1]
    height, width = entries.get("attention_mask_img_shape", (1, 1))
    old = entries.get("attention_mask")
    if old is not None and old.dtype == torch.bool:
        old = old.float().log()
    if old is None or old.ndim == 2:
        whole = torch.zeros(len(text), length + height * width, length + height * width)
        if old is not None:  # of the text alone: what every token sees of it
            whole[:, :, :length] = old[:, None, :length]
        old = whole
    after = length + tokens
    places = torch.cat((torch.arange(length), torch.arange(after, old.shape[-1] + tokens)))
    mask = old.new_zeros((old.shape[0], old.shape[-1] + tokens, old.shape[-1] + tokens))
    mask[:, places[:, None], places[None, :]] = old
    mask[:, places, length:after] = bias
    return mask


@node("unCLIPConditioning", category="conditioning", title="unCLIPConditioning")
def add_pictures(
    conditioning: Conditioning,
    clip_vision_output: CLIP_VISION_OUTPUT,
    strength: Annotated[float, Float(min=-10.0, max=10.0, step=0.01)] = 1.0,
    noise_augmentation: Annotated[float, Float(min=0.0, max=1.0, step=0.01)] = 0.0,
) -> Conditioning:
    """Pictures that an unCLIP model is shown beside the text.

    strength: how strongly; 0 leaves them out.
    noise_augmentation: how much noise is on what the model is told of them; 0 is closest to the pictures.
    """
    if strength == 0:
        return conditioning
    picture = {
        "clip_vision_output": clip_vision_output, "strength": strength, "noise_augmentation": noise_augmentation,
    }  # fmt: skip
    return [
        [text, {**entries, "unclip_conditioning": [*entries.get("unclip_conditioning", ()), picture]}]
        for text, entries in conditioning
    ]
