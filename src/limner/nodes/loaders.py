"""Models from files: checkpoints, their parts, and LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch

from limner.graph import Choice, Float, Folder, Run, node
from limner.models.folders import load_folder
from limner.models.legacy_yaml import configured, read_configuration
from limner.models.load import load_checkpoint, load_diffusion_model
from limner.models.load_text import load_clip
from limner.models.load_vae import load_taesd, load_vae
from limner.models.lora import load_lora
from limner.models.pixel_space import pixel_space
from limner.nodes._vocabularies import vocabularies
from limner.nodes.kinds import CLIP, MODEL, VAE

Strength = Annotated[float, Float(min=-100.0, max=100.0, step=0.01)]
LoraName = Annotated[str, Folder("loras")]
EncoderName = Annotated[str, Folder("text_encoders")]
WeightDtype = Annotated[str, Choice(("default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"))]
ClipType = Annotated[
    str,
    Choice(
        (
            "stable_diffusion",
            "stable_cascade",
            "sd3",
            "stable_audio",
            "mochi",
            "ltxv",
            "pixart",
            "cosmos",
            "lumina2",
            "wan",
            "hidream",
            "chroma",
            "ace",
            "omnigen2",
            "qwen_image",
            "hunyuan_image",
        )
    ),
]
ClipDevice = Annotated[str, Choice(("default", "cpu"), extra={"advanced": True})]


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    MODEL: MODEL
    CLIP: CLIP | None
    VAE: VAE


class Patched(NamedTuple):
    """Both with a LoRA added."""

    MODEL: MODEL | None
    CLIP: CLIP | None


@node("CheckpointLoaderSimple", category="loaders", title="Load Checkpoint")
def load_checkpoint_file(run: Run, ckpt_name: Annotated[str, Folder("checkpoints")]) -> Checkpoint:
    """The diffusion model, the text encoder and the autoencoder of a checkpoint.

    ckpt_name: the file.
    """
    path = run.store.folders.path("checkpoints", ckpt_name)
    return Checkpoint(*load_checkpoint(path, run.memory, run.store.folders.roots("embeddings"), vocabularies(run)))


@node(
    "CheckpointLoader", category="advanced/loaders", title="Load Checkpoint With Config (DEPRECATED)", deprecated=True
)
def load_configured_checkpoint(
    run: Run,
    config_name: Annotated[str, Folder("configs")],
    ckpt_name: Annotated[str, Folder("checkpoints")],
) -> Checkpoint:
    """The parts of an old checkpoint with a configuration of its own."""
    folders = run.store.folders
    configuration = read_configuration(folders.path("configs", config_name))
    path = folders.path("checkpoints", ckpt_name)
    found = load_checkpoint(path, run.memory, folders.roots("embeddings"), vocabularies(run))
    return Checkpoint(*configured(found, configuration))


@node("DiffusersLoader", category="advanced/loaders/deprecated", title="DiffusersLoader")
def load_diffusers_folder(run: Run, model_path: Annotated[str, Folder("diffusers")]) -> Checkpoint:
    """The parts of a folder of the diffusers library."""
    folders = run.store.folders
    index = folders.path("diffusers", f"{model_path}/model_index.json")
    return Checkpoint(*load_folder(index.parent, run.memory, folders.roots("embeddings"), vocabularies(run)))


# Scale and shift of the latents of the large autoencoder that each small one stands for.
SMALL = {"taesd": (0.18215, 0.0), "taesdxl": (0.13025, 0.0), "taesd3": (1.5305, 0.0609), "taef1": (0.3611, 0.1159)}


@node("VAELoader", category="loaders", title="Load VAE")
def load_vae_file(run: Run, vae_name: Annotated[str, Folder("vae", also=("pixel_space",), pairs=tuple(SMALL))]) -> VAE:
    """An autoencoder from a file of its own, or the one in a checkpoint."""
    folders = run.store.folders
    if vae_name == "pixel_space":
        return pixel_space(run.memory)
    if vae_name in SMALL and vae_name not in folders.list("vae"):
        files = folders.list("vae_approx")
        halves = (
            next((file for file in files if file.startswith(f"{vae_name}_{half}")), f"{vae_name}_{half}")
            for half in ("encoder", "decoder")
        )
        encoder, decoder = (folders.path("vae_approx", file) for file in halves)
        return load_taesd(encoder, decoder, *SMALL[vae_name], run.memory)
    return load_vae(folders.path("vae", vae_name), run.memory)


@node("UNETLoader", category="advanced/loaders", title="Load Diffusion Model")
def load_diffusion_model_file(
    run: Run, unet_name: Annotated[str, Folder("diffusion_models")], weight_dtype: WeightDtype
) -> MODEL:
    """A diffusion model from a file of its own, or the one in a checkpoint."""
    model = load_diffusion_model(run.store.folders.path("diffusion_models", unet_name), run.memory)
    if weight_dtype != "default":
        model.weight_dtype = getattr(torch, "float8_" + weight_dtype.removeprefix("fp8_").removesuffix("_fast"))
    return model


@node("CLIPLoader", category="advanced/loaders", title="Load CLIP")
def load_clip_file(
    run: Run,
    clip_name: EncoderName,
    type: ClipType,  # noqa: A002 - the name that prompts use
    device: ClipDevice | None = None,
) -> CLIP:
    """A text encoder from a file of its own."""
    return _clip(run, [clip_name], type, device)


@node("DualCLIPLoader", category="advanced/loaders", title="DualCLIPLoader")
def load_two_clip_files(
    run: Run,
    clip_name1: EncoderName,
    clip_name2: EncoderName,
    type: Annotated[str, Choice(("sdxl", "sd3", "flux", "hunyuan_video", "hidream", "hunyuan_image"))],  # noqa: A002
    device: ClipDevice | None = None,
) -> CLIP:
    """Two text encoders, in any order."""
    return _clip(run, [clip_name1, clip_name2], type, device)


@node("TripleCLIPLoader", category="advanced/loaders", title="", python_module="comfy_extras.nodes_sd3", style="v3")
def load_three_clip_files(run: Run, clip_name1: EncoderName, clip_name2: EncoderName, clip_name3: EncoderName) -> CLIP:
    """The three text encoders of Stable Diffusion 3, in any order."""
    return _clip(run, [clip_name1, clip_name2, clip_name3], "sd3", None)


def _clip(run: Run, names: Sequence[str], type: str, device: str | None) -> CLIP:  # noqa: A002
    """The text encoders of files. type: the word for the family. device: "cpu" to run them there."""
    folders = run.store.folders
    paths = [folders.path("text_encoders", name) for name in names]
    clip = load_clip(paths, type, run.memory, folders.roots("embeddings"), vocabularies(run))
    if device == "cpu":
        clip.device = torch.device("cpu")
    return clip


@node("LoraLoader", category="loaders", title="Load LoRA")
def load_lora_file(
    run: Run,
    model: MODEL,
    clip: CLIP | None,
    lora_name: LoraName,
    *,
    strength_model: Strength = 1.0,
    strength_clip: Strength = 1.0,
) -> Patched:
    """A diffusion model and its text encoder with a LoRA added; loaders may follow each other.

    model: the diffusion model.
    clip: the text encoder.
    lora_name: the file.
    strength_model: how strongly the diffusion model is changed; may be negative.
    strength_clip: how strongly the text encoder is changed; may be negative.
    """
    if strength_model == 0 and strength_clip == 0:
        return Patched(model, clip)
    path = run.store.folders.path("loras", lora_name)
    return Patched(*load_lora(path, model, clip, strength_model, strength_clip))


@node("LoraLoaderModelOnly", category="loaders", title="LoraLoaderModelOnly")
def load_lora_model_only(run: Run, model: MODEL, lora_name: LoraName, strength_model: Strength = 1.0) -> MODEL | None:
    """A diffusion model with a LoRA added."""
    if strength_model == 0:
        return model
    return load_lora(run.store.folders.path("loras", lora_name), model, None, strength_model, 0.0)[0]
