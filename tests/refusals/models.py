"""Model files and values where they do not belong: how each is drawn, and the words its refusal must say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from limner.weights import save
from tests.families.make import Graph, Link, Loaded, Prepare, Small, write, write_shared
from tests.families.networks import ENCODERS
from tests.families.small import (
    SMALL,
    beside_a_picture,
    blank,
    controlled,
    filled,
    in_the_style,
    picture,
    plain_text,
    shown_a_picture,
)

FAMILIES = {small.name: small for small in SMALL}
USED = ("sd1", "sd1_inpaint", "sdxl", "sdxl_control", "sd3_medium", "flux_dev", "flux_fill", "flux_canny",
        "flux_control", "chroma", "qwen_image", "qwen_image_control", "sd2_unclip", "flux_redux", "sd35_control")  # fmt: skip
ELSEWHERE = {
    "checkpoints/t5xxl.safetensors": "text_encoders/t5xxl.safetensors",
    "checkpoints/sixteen.safetensors": "vae/sixteen.safetensors",
    "checkpoints/control.safetensors": "controlnet/flux.safetensors",
    "checkpoints/lora.safetensors": "loras/flux.safetensors",
    "diffusion_models/t5xxl.safetensors": "text_encoders/t5xxl.safetensors",
    "diffusion_models/wan.safetensors": "vae/wan.safetensors",
    "text_encoders/flux.safetensors": "diffusion_models/flux_dev.safetensors",
    "text_encoders/sd.safetensors": "vae/sd.safetensors",
    "text_encoders/lora.safetensors": "loras/flux.safetensors",
    "vae/clip_l.safetensors": "text_encoders/clip_l.safetensors",
    "vae/flux.safetensors": "diffusion_models/flux_dev.safetensors",
    "controlnet/qwen_model.safetensors": "diffusion_models/qwen_image.safetensors",
    "controlnet/lora.safetensors": "loras/flux.safetensors",
    "loras/clip_l.safetensors": "text_encoders/clip_l.safetensors",
    "checkpoints/siglip.safetensors": "clip_vision/siglip.safetensors",
    "text_encoders/siglip.safetensors": "clip_vision/siglip.safetensors",
    "clip_vision/clip_l.safetensors": "text_encoders/clip_l.safetensors",
    "clip_vision/redux.safetensors": "style_models/redux.safetensors",
    "style_models/siglip.safetensors": "clip_vision/siglip.safetensors",
}
"""Files in the folder of another kind: link → what it is."""


@dataclass(frozen=True)
class Misplaced:
    """A graph that must be refused by one of its nodes: which kind, the words of the refusal."""

    name: str
    graph: Callable[[], dict[str, Any]]
    node: str
    says: tuple[str, ...]
    error: str = "BadInput"


def write_models(base: Path) -> None:
    """The files of the table below a server's folder."""
    models = base / "models"
    write_shared(base)
    for name in USED:
        write(FAMILIES[name], models)
    (models / "loras").mkdir()
    save(models / "loras" / "sd1.safetensors", _lora("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q", 8))
    save(models / "loras" / "flux.safetensors", _lora("transformer.single_transformer_blocks.0.attn.to_q", 32))
    for kind, encoder in ENCODERS.items():
        said = {"config": json.dumps({kind: encoder.config})}
        save(models / "text_encoders" / f"mute_{kind}.safetensors", encoder.tensors(), said)
    for link, target in ELSEWHERE.items():
        (models / link).parent.mkdir(exist_ok=True)
        (models / link).symlink_to(models / target)


def _lora(module: str, width: int) -> dict[str, torch.Tensor]:
    ends = ("lora_down", "lora_up") if module.startswith("lora_unet") else ("lora_A", "lora_B")
    shapes = ((2, width), (width, 2))
    return {f"{module}.{end}.weight": torch.ones(shape) for end, shape in zip(ends, shapes, strict=True)}


# -- graphs -----------------------------------------------------------------------------------------------------------


def checkpoint(name: str) -> Callable[[], dict[str, Any]]:
    """A checkpoint and a picture by it."""

    def draw() -> dict[str, Any]:
        graph = Graph()
        loaded = Loaded(*graph.outputs("CheckpointLoaderSimple", 3, ckpt_name=f"{name}.safetensors"))
        return sampled(graph, loaded)

    return draw


def parts(
    model: str,
    clip: str | tuple[str, ...] = (),
    type: str = "",  # noqa: A002
    vae: str = "",
    then: Any = None,
) -> Callable[[], dict[str, Any]]:
    """A diffusion model, text encoders and an autoencoder, a family's own where none are named; and what is then done.

    then: graph, what was loaded → a finished graph.
    """

    def draw() -> dict[str, Any]:
        own: Small = FAMILIES.get(model, FAMILIES["sd1"])
        names = (clip,) if isinstance(clip, str) else clip or tuple(own.text)
        graph = Graph()
        loaded = Loaded(
            graph.add("UNETLoader", unet_name=f"{model}.safetensors", weight_dtype="default"),
            _clip(graph, names, type or own.type),
            graph.add("VAELoader", vae_name=f"{vae or (own.vae or ('', ''))[1]}.safetensors"),
        )
        return (then or sampled)(graph, loaded)

    return draw


def _clip(graph: Graph, names: tuple[str, ...], type: str) -> Link:  # noqa: A002
    files = [f"{name}.safetensors" for name in names]
    if len(files) == 1:
        return graph.add("CLIPLoader", clip_name=files[0], type=type)
    if len(files) == 2:
        return graph.add("DualCLIPLoader", clip_name1=files[0], clip_name2=files[1], type=type)
    return graph.add("TripleCLIPLoader", **{f"clip_name{number}": file for number, file in enumerate(files, 1)})


def sampled(graph: Graph, loaded: Loaded, prepare: Prepare | None = None, latent: Link | None = None) -> dict[str, Any]:
    """One step and a picture."""
    positive, negative = (plain_text(graph, loaded, text) for text in ("a cat", "dog"))
    told = (prepare or blank())(graph, loaded, positive, negative)
    samples = graph.add(
        "KSampler", model=told.model, positive=told.positive, negative=told.negative, latent_image=latent or told.latent,
        seed=1, steps=1, cfg=2.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip
    graph.add("PreviewImage", images=graph.add("VAEDecode", samples=samples, vae=loaded.vae))
    return graph.prompt


def from_picture(graph: Graph, loaded: Loaded) -> dict[str, Any]:
    """The latent is an encoded picture."""
    latent = graph.add("VAEEncode", pixels=picture(graph), vae=loaded.vae)
    return sampled(graph, loaded, latent=latent)


def with_reference(graph: Graph, loaded: Loaded) -> dict[str, Any]:
    """The conditioning has an encoded picture."""

    def prepare(graph: Graph, loaded: Loaded, positive: Link, negative: Link) -> Any:
        latent = graph.add("VAEEncode", pixels=picture(graph), vae=loaded.vae)
        return blank()(graph, loaded, graph.add("ReferenceLatent", conditioning=positive, latent=latent), negative)

    return sampled(graph, loaded, prepare)


def shown(prepare: Prepare) -> Callable[[Graph, Loaded], dict[str, Any]]:
    """What the model is shown beside a blank latent."""

    def then(graph: Graph, loaded: Loaded) -> dict[str, Any]:
        latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
        return sampled(graph, loaded, prepare, latent)

    return then


def seen_by(name: str, prepare: Prepare) -> Callable[[Graph, Loaded], dict[str, Any]]:
    """A picture shown by a vision encoder, by its file."""

    def then(graph: Graph, loaded: Loaded) -> dict[str, Any]:
        vision = graph.add("CLIPVisionLoader", clip_name=f"{name}.safetensors")
        return sampled(graph, loaded._replace(vision=vision), prepare)

    return then


def styled(encoder: str, style: str) -> Callable[[Graph, Loaded], dict[str, Any]]:
    """The style of a picture, by the files of a vision encoder and a style model."""

    def prepare(graph: Graph, loaded: Loaded, positive: Link, negative: Link) -> Any:
        return in_the_style(graph, loaded, positive, negative, encoder, style)

    return lambda graph, loaded: sampled(graph, loaded, prepare)


def with_control(name: str) -> Callable[[Graph, Loaded], dict[str, Any]]:
    """A ControlNet by its file."""
    return lambda graph, loaded: sampled(graph, loaded, controlled(f"{name}.safetensors", blank()))


def with_lora(name: str) -> Callable[[Graph, Loaded], dict[str, Any]]:
    """A LoRA by its file."""

    def then(graph: Graph, loaded: Loaded) -> dict[str, Any]:
        strength = {"strength_model": 1.0, "strength_clip": 1.0}
        model, clip = graph.outputs(
            "LoraLoader", 2, model=loaded.model, clip=loaded.clip, lora_name=f"{name}.safetensors", **strength
        )
        return sampled(graph, Loaded(model, clip, loaded.vae))

    return then


# -- the table --------------------------------------------------------------------------------------------------------

OTHER_TEXT = ("Encode the prompt with the CLIP of this model's checkpoint", "another model family")
OTHER_VAE = ("It was encoded for another model family.", "Encode the picture with this model's VAE")
OTHER_CONTROL = ("made for different model families", "Use a ControlNet for the model's family")

MISPLACED = (
    # a file in the wrong loader
    Misplaced("a text encoder as a checkpoint", checkpoint("t5xxl"), "CheckpointLoaderSimple", ("t5xxl.safetensors", "no known diffusion model", "It is a text encoder: load it with Load CLIP")),
    Misplaced("a VAE as a checkpoint", checkpoint("sixteen"), "CheckpointLoaderSimple", ("sixteen.safetensors", "It is a VAE: load it with Load VAE")),
    Misplaced("a ControlNet as a checkpoint", checkpoint("control"), "CheckpointLoaderSimple", ("control.safetensors", "Closest is Flux", "It is a ControlNet: load it with Load ControlNet Model")),
    Misplaced("a LoRA as a checkpoint", checkpoint("lora"), "CheckpointLoaderSimple", ("lora.safetensors", "It is a LoRA: load it with Load LoRA")),
    Misplaced("a text encoder as a diffusion model", parts("t5xxl"), "UNETLoader", ("t5xxl.safetensors", "It is a text encoder: load it with Load CLIP")),
    Misplaced("a VAE as a diffusion model", parts("wan"), "UNETLoader", ("wan.safetensors", "It is a VAE: load it with Load VAE")),
    Misplaced("a diffusion model as Stable Diffusion's text encoder", parts("sd1", "flux"), "CLIPLoader", ("flux.safetensors is no text encoder", "Found: Flux, reference layout", "CLIP-L")),
    Misplaced("a VAE as a text encoder", parts("sd1", "sd"), "CLIPLoader", ("sd.safetensors is no text encoder", "Found: VAE: KL autoencoder, 4 channels", "CLIP-L")),
    Misplaced("a LoRA as a text encoder", parts("sd1", "lora"), "CLIPLoader", ("lora.safetensors is no text encoder", "Found: LoRA")),
    Misplaced("a text encoder as a VAE", parts("sd1", vae="clip_l"), "VAELoader", ("clip_l.safetensors holds no VAE", "Found: text encoder: CLIP-L", "Choose the file of an autoencoder")),
    Misplaced("a diffusion model as a VAE", parts("sd1", vae="flux"), "VAELoader", ("flux.safetensors holds no VAE", "Found: Flux, reference layout")),
    Misplaced("a diffusion model as a ControlNet", parts("sd1", then=with_control("qwen_model")), "ControlNetLoader", ("qwen_model.safetensors", "no known ControlNet", "limner inspect")),
    Misplaced("a LoRA as a ControlNet", parts("sd1", then=with_control("lora")), "ControlNetLoader", ("lora.safetensors", "It is a LoRA: load it with Load LoRA")),
    Misplaced("a text encoder as a LoRA", parts("sd1", then=with_lora("clip_l")), "LoraLoader", ("clip_l.safetensors", "belongs to this Stable Diffusion 1 model", "limner inspect")),
    # text of another width or kind
    Misplaced("the text of Chroma for Stable Diffusion", parts("sd1", "t5xxl", "chroma"), "KSampler", ("32 wide, Stable Diffusion 1 takes 8", "type stable_diffusion", *OTHER_TEXT)),
    Misplaced("the text of SDXL for Flux", parts("flux_dev", ("clip_l", "clip_g"), "sdxl"), "KSampler", ("20 wide, Flux takes 32", "type flux", *OTHER_TEXT)),
    Misplaced("the text of one CLIP for SDXL", parts("sdxl", "clip_g", "stable_diffusion"), "KSampler", ("12 wide, Stable Diffusion XL takes 20", "type sdxl", *OTHER_TEXT)),
    Misplaced("the text of Stable Diffusion for Qwen-Image", parts("qwen_image", "clip_l", "stable_diffusion"), "KSampler", ("8 wide, Qwen-Image takes 16", "type qwen_image", *OTHER_TEXT)),
    Misplaced("the text of Qwen-Image for Chroma", parts("chroma", "qwen25_7b", "qwen_image"), "KSampler", ("16 wide, Chroma takes 32", "type chroma", *OTHER_TEXT)),
    Misplaced("the text of Flux for Stable Diffusion 3", parts("sd3_medium", ("clip_l", "t5xxl"), "flux"), "KSampler", ("vector of width 20; it is 8 wide", "type `sd3`")),
    Misplaced("the text of Stable Diffusion 3 for Flux", parts("flux_dev", ("clip_l", "clip_g", "t5xxl")), "KSampler", ("vector of the text is 20 wide, this Flux model takes 8", "type flux")),
    Misplaced("the type sd3 and a Qwen for Stable Diffusion 3", parts("sd3_medium", "qwen25_7b", "sd3"), "KSampler", ("16 wide, Stable Diffusion 3 takes 32", "type sd3", *OTHER_TEXT)),
    # mixed-up types
    Misplaced("the type flux and one file twice", parts("flux_dev", ("clip_l", "clip_l"), "flux"), "DualCLIPLoader", ("clip_l.safetensors and clip_l.safetensors both hold CLIP-L", "Choose another file")),
    Misplaced("the type sdxl and a T5", parts("sdxl", ("clip_l", "t5xxl"), "sdxl"), "DualCLIPLoader", ("type sdxl takes no such text encoders", "t5xxl.safetensors is T5-XXL", "flux")),
    Misplaced("the type sd3 and a Qwen beside a CLIP", parts("sd3_medium", ("qwen25_7b", "clip_l"), "sd3"), "DualCLIPLoader", ("type sd3 takes no such text encoders", "qwen25_7b.safetensors is Qwen2.5-VL 7B", "belongs to qwen_image")),
    Misplaced("three files and one of them a Qwen", parts("sd3_medium", ("qwen25_7b", "clip_l", "t5xxl")), "TripleCLIPLoader", ("type sd3 takes no such text encoders", "belongs to qwen_image")),
    Misplaced("the type qwen_image and a T5", parts("qwen_image", "t5xxl", "qwen_image"), "CLIPLoader", ("type qwen_image takes no such text encoders", "t5xxl.safetensors is T5-XXL", "chroma")),
    # latents of another autoencoder
    Misplaced("Flux decoded by Stable Diffusion's VAE", parts("flux_dev", vae="sd"), "VAEDecode", ("sd.safetensors cannot decode a latent of 16 channels", "have 4", "Load the VAE that belongs to the model")),
    Misplaced("Stable Diffusion decoded by Flux's VAE", parts("sd1", vae="sixteen"), "VAEDecode", ("sixteen.safetensors cannot decode a latent of 4 channels", "have 16")),
    Misplaced("Stable Diffusion decoded by Wan's VAE", parts("sd1", vae="wan"), "VAEDecode", ("wan.safetensors cannot decode a latent of 4 channels", "have 16")),
    Misplaced("a picture of Stable Diffusion's VAE for Flux", parts("flux_dev", vae="sd", then=from_picture), "KSampler", ("has 4 channels, this model's have 16", *OTHER_VAE)),
    Misplaced("a picture of Flux's VAE for Stable Diffusion", parts("sd1", vae="sixteen", then=from_picture), "KSampler", ("has 16 channels, this model's have 4", *OTHER_VAE)),
    Misplaced("a picture of Wan's VAE for Flux", parts("flux_dev", vae="wan", then=from_picture), "KSampler", ("has 5 axes, as those of videos have, this model's have 4", *OTHER_VAE)),
    Misplaced("a picture of Stable Diffusion's VAE for Qwen-Image", parts("qwen_image", vae="sd", then=from_picture), "KSampler", ("has 4 channels, this model's have 16", *OTHER_VAE)),
    Misplaced("a hole in a picture of Flux's VAE", parts("sd1_inpaint", vae="sixteen", then=shown(filled)), "KSampler", ("has 16 channels, this model's have 4", *OTHER_VAE)),
    Misplaced("a hole in a picture of Stable Diffusion's VAE", parts("flux_fill", vae="sd", then=shown(filled)), "KSampler", ("has 4 channels, this model's have 16", *OTHER_VAE)),
    Misplaced("a picture to go by of Stable Diffusion's VAE", parts("flux_canny", vae="sd", then=shown(beside_a_picture)), "KSampler", ("has 4 channels, this model's have 16", *OTHER_VAE)),
    Misplaced("a reference of Stable Diffusion's VAE for Flux", parts("flux_dev", vae="sd", then=with_reference), "KSampler", ("has 4 channels, this model's have 16", *OTHER_VAE)),
    Misplaced("a reference of Stable Diffusion's VAE for Qwen-Image", parts("qwen_image", vae="sd", then=with_reference), "KSampler", ("has 4 channels, this model's have 16", *OTHER_VAE)),
    # LoRAs and ControlNets of other families
    Misplaced("a LoRA of Flux for Stable Diffusion", parts("sd1", then=with_lora("flux")), "LoraLoader", ("flux.safetensors", "this Stable Diffusion 1 model", "as in LoRAs for", "Flux", "Choose a LoRA made for this model")),
    Misplaced("a LoRA of Stable Diffusion for Flux", parts("flux_dev", then=with_lora("sd1")), "LoraLoader", ("sd1.safetensors", "this Flux model", "as in LoRAs for Stable Diffusion 1")),
    *(
        Misplaced(f"a ControlNet of {whose} for {model}", parts(model, then=with_control(file)), "KSampler", (*says, *OTHER_CONTROL))
        for file, whose, model, says in (
            ("sdxl", "SDXL", "sd1", ("a text 20 wide, the model gives 8",)),
            ("sdxl", "SDXL", "flux_dev", ("a text 20 wide, the model gives 32",)),
            ("flux", "Flux", "sd1", ("follows latents of 16 channels, the VAE's have 4",)),
            ("flux", "Flux", "qwen_image", ("a text 32 wide, the model gives 16",)),
            ("sd35", "Stable Diffusion 3.5", "sdxl", ("follows latents of 16 channels, the VAE's have 4",)),
            ("sd35", "Stable Diffusion 3.5", "flux_dev", ("a vector 20 wide, the model gives 8",)),
            ("sd35", "Stable Diffusion 3.5", "qwen_image", ("a vector 20 wide, the model gives none",)),
            ("qwen_image", "Qwen-Image", "sd1", ("follows latents of 16 channels, the VAE's have 4",)),
            ("qwen_image", "Qwen-Image", "flux_dev", ("a text 16 wide, the model gives 32",)),
        )
    ),
    # vision encoders and style models
    Misplaced("a vision encoder as a checkpoint", checkpoint("siglip"), "CheckpointLoaderSimple", ("siglip.safetensors", "It is a vision encoder: load it with Load CLIP Vision")),
    Misplaced("a vision encoder as a text encoder", parts("sd1", "siglip"), "CLIPLoader", ("siglip.safetensors is no text encoder", "Found: vision encoder: SigLIP")),
    Misplaced("a text encoder as a vision encoder", parts("sd2_unclip", then=seen_by("clip_l", shown_a_picture)), "CLIPVisionLoader", ("clip_l.safetensors", "no known vision encoder", "Found: text encoder: CLIP-L")),
    Misplaced("a style model as a vision encoder", parts("sd2_unclip", then=seen_by("redux", shown_a_picture)), "CLIPVisionLoader", ("redux.safetensors", "no known vision encoder", "Choose a CLIP vision file")),
    Misplaced("a vision encoder as a style model", parts("flux_dev", then=styled("siglip", "siglip")), "StyleModelLoader", ("siglip.safetensors", "no known style model", "Found: vision encoder: SigLIP", "FLUX.1 Redux")),
    Misplaced("SigLIP for unCLIP", parts("sd2_unclip", then=seen_by("siglip", shown_a_picture)), "KSampler", ("picture's vector is 16 wide, the model takes 12",)),
    Misplaced("the style of Flux for Stable Diffusion", parts("sd1", then=styled("siglip", "redux")), "StyleModelApply", ("style's tokens have 32 channels, the text's 8", "FLUX.1 Redux with Flux")),
    # vocabularies
    Misplaced("a T5 without a vocabulary", parts("chroma", "mute_t5xxl"), "CLIPTextEncode", ("The vocabulary of T5 is not there", "mute_t5xxl.safetensors itself", "models/tokenizers/t5", "limner models fetch-tokenizers"), "NotFound"),
)  # fmt: skip
