"""Models to files in the output folder, with prompt and workflow inside."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from torch import Tensor

from limner.errors import BadInput
from limner.graph import Choice, Int, Run, Text, Ui, node
from limner.models import saving
from limner.nodes.kinds import CLIP, MODEL, VAE
from limner.nodes.saving import Extra, Prompt, carried
from limner.weights import save
from limner.weights.lora_extract import extract

saving_node = partial(
    node,
    category="advanced/model_merging",
    python_module="comfy_extras.nodes_model_merging",
    output_node=True,
)


@saving_node("CheckpointSave", title="Save Checkpoint")
def save_checkpoint(
    run: Run,
    model: MODEL,
    clip: CLIP,
    vae: VAE,
    filename_prefix: str = "checkpoints/ComfyUI",
    prompt: Prompt = None,
    extra_pnginfo: Extra = None,
) -> Ui:
    """A checkpoint of all three, patched as they are."""
    return _checkpoint(run, filename_prefix, (model, clip, vae), prompt, extra_pnginfo)


@saving_node("ModelSave", title="ModelSave")
def save_model(
    run: Run,
    model: MODEL,
    filename_prefix: str = "diffusion_models/ComfyUI",
    prompt: Prompt = None,
    extra_pnginfo: Extra = None,
) -> Ui:
    """A diffusion model, patched as it is."""
    return _checkpoint(run, filename_prefix, (model, None, None), prompt, extra_pnginfo)


def _checkpoint(
    run: Run, prefix: str, parts: tuple[MODEL, CLIP | None, VAE | None], prompt: Prompt, extra: Extra
) -> Ui:
    target = run.store.files.next_name("output", prefix, "safetensors")
    title = f"{target.stem} {target.counter}"
    saving.save_checkpoint(target.path(), *parts, carried(run, prompt, extra), title)
    return Ui({})


@saving_node("CLIPSave", title="CLIPSave")
def save_clip(
    run: Run,
    clip: CLIP,
    filename_prefix: str = "clip/ComfyUI",
    prompt: Prompt = None,
    extra_pnginfo: Extra = None,
) -> Ui:
    """A file for each text encoder, patched as it is; its kind is added to the name."""
    for encoder in clip.encoders:
        target = run.store.files.next_name("output", f"{filename_prefix}_{encoder.name}", "safetensors")
        saving.save_clip(target.path(), clip, encoder, carried(run, prompt, extra_pnginfo))
    return Ui({})


@saving_node("VAESave", title="VAESave")
def save_vae(
    run: Run,
    vae: VAE,
    filename_prefix: str = "vae/ComfyUI_vae",
    prompt: Prompt = None,
    extra_pnginfo: Extra = None,
) -> Ui:
    """An autoencoder."""
    target = run.store.files.next_name("output", filename_prefix, "safetensors")
    saving.save_vae(target.path(), vae, carried(run, prompt, extra_pnginfo))
    return Ui({})


@node(
    "LoraSave",
    category="_for_testing",
    title="Extract and Save Lora",
    python_module="comfy_extras.nodes_lora_extract",
    style="v3",
    output_node=True,
    experimental=True,
)
def save_lora(
    run: Run,
    filename_prefix: Annotated[str, Text(multiline=False)] = "loras/ComfyUI_extracted_lora",
    rank: Annotated[int, Int(min=1, max=4096, step=1)] = 8,
    *,
    lora_type: Annotated[str, Choice(("standard", "full_diff"))],
    bias_diff: bool = True,
    model_diff: MODEL | None = None,
    text_encoder_diff: CLIP | None = None,
    prompt: Prompt = None,
    extra_pnginfo: Extra = None,
) -> Ui:
    """A LoRA of a difference of models, as ModelMergeSubtract and CLIPMergeSubtract make one.

    filename_prefix: where it is saved.
    rank: how many singular values of each weight are kept.
    lora_type: standard factors, or whole differences.
    bias_diff: with the differences of biases.
    model_diff: a difference of diffusion models.
    text_encoder_diff: a difference of text encoders.
    """
    parts = ((model_diff, "diffusion_model."), (text_encoder_diff, "text_encoders."))
    given = [(part, prefix) for part, prefix in parts if part is not None]
    if not given:
        raise BadInput("There is no difference to make a LoRA of.", do="Wire model_diff, text_encoder_diff or both.")
    tensors: dict[str, Tensor] = {}
    for part, prefix in given:
        names = prefix if prefix == part.source.prefix else prefix + part.source.prefix
        tensors |= extract(part.source, names, rank, lora_type == "full_diff", bias_diff, run.progress)
    target = run.store.files.next_name("output", filename_prefix, "safetensors")
    save(target.path(), tensors, carried(run, prompt, extra_pnginfo))
    return Ui({})
