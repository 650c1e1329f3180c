"""Model patches: small networks hung into a diffusion model."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from limner.graph import Float, Folder, Image, Mask, Run, node
from limner.models.model_patches import (
    BlockwiseControl,
    BlockwiseHook,
    StyleHook,
    StyleProjector,
    expect,
    load_model_patch,
    style_layers,
)
from limner.nodes.kinds import CLIP_VISION_OUTPUT, MODEL, MODEL_PATCH, VAE

patch_node = partial(node, python_module="comfy_extras.nodes_model_patch", experimental=True)


@patch_node("ModelPatchLoader", category="advanced/loaders", title="ModelPatchLoader")
def load_patch(run: Run, name: Annotated[str, Folder("model_patches")]) -> MODEL_PATCH:
    """A model patch from a file."""
    return load_model_patch(run.store.folders.path("model_patches", name), run.memory)


@patch_node("QwenImageDiffsynthControlnet", category="advanced/loaders/qwen", title="QwenImageDiffsynthControlnet")
def qwen_image_control(
    model: MODEL,
    model_patch: MODEL_PATCH,
    vae: VAE,
    image: Image,
    strength: Annotated[float, Float(min=-10.0, max=10.0, step=0.01)] = 1.0,
    *,
    mask: Mask | None = None,
) -> MODEL:
    """A Qwen-Image model that follows a picture; with an inpainting patch, one that paints only where the mask is 1."""
    expect(model_patch, BlockwiseControl, "QwenImageDiffsynthControlnet")
    changed = model.clone()
    masks = None if mask is None else mask.reshape(-1, 1, *mask.shape[-2:])
    changed.set_model_double_block_patch(BlockwiseHook(model_patch, vae, image, strength, masks))
    return changed


@patch_node("USOStyleReference", category="advanced/model_patches/flux", title="USOStyleReference")
def style_reference(model: MODEL, model_patch: MODEL_PATCH, clip_vision_output: CLIP_VISION_OUTPUT) -> MODEL:
    """A FLUX.1 model that paints in the style of a picture, as a SigLIP encoder sees it."""
    expect(model_patch, StyleProjector, "USOStyleReference")
    changed = model.clone()
    tokens = model_patch.source.tensors["high_embedding_linear.0.weight"].shape[1]
    changed.set_model_post_input_patch(StyleHook(model_patch, style_layers(clip_vision_output, tokens)))
    return changed
