"""LoRA files: the names by which they call a model's weights, and loading them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from limner.models.clip import CLIP
from limner.models.model import Model
from limner.weights import CheckpointHeader, read_adapters

_log = logging.getLogger(__name__)

_TEXT_MODULES = (
    "mlp.fc1", "mlp.fc2", "self_attn.k_proj", "self_attn.q_proj", "self_attn.v_proj", "self_attn.out_proj",
)  # fmt: skip


def model_keys(model: Model) -> dict[str, str]:
    """What a LoRA file may call this model's weights: name without suffix → patch key."""
    names = tuple(model.source.tensors)
    return unet_names(names, model.source.prefix, model.family.lora_aliases(model.config, names))


def clip_keys(clip: CLIP) -> dict[str, str]:
    """What a LoRA file may call this text encoder's weights."""
    return text_names(clip.source.tensors, clip.source.prefix)


def unet_names(names: Iterable[str], prefix: str, aliases: Mapping[str, str]) -> dict[str, str]:
    """LoRA names of a UNet's tensors. aliases: diffusers' name → ours, both without suffix."""
    found: dict[str, str] = {}
    for name in names:
        key = prefix + name
        if name.endswith(".weight"):
            short = name.removesuffix(".weight")
            found["lora_unet_" + short.replace(".", "_")] = key
            found[prefix + short] = key
        else:
            found[key] = key
    for alias, short in aliases.items():
        key = f"{prefix}{short}.weight"
        flat = alias.replace(".", "_")
        found["lora_unet_" + flat] = key
        found["lycoris_" + flat] = key
        # diffusers' attention processors, and the plain names that PEFT writes
        processor = alias.replace(".to_", ".processor.to_").replace(".to_out.0", ".to_out")
        for other in {processor, alias}:
            found[other] = key
            found["unet." + other] = key
    return found


def text_names(names: Iterable[str], prefix: str) -> dict[str, str]:
    """LoRA names of a CLIP text encoder's tensors."""
    found: dict[str, str] = {}
    for name in (one.removesuffix(".weight") for one in names if one.endswith(".weight")):
        key = f"{prefix}{name}.weight"
        found[f"text_encoders.{prefix}{name}"] = key
        if name.startswith("text_model.encoder.layers.") and name.split(".", 4)[4] in _TEXT_MODULES:
            flat = name.replace(".", "_")
            found[f"lora_te_{flat}"] = key
            found[f"lora_te1_{flat}"] = key
            found[f"text_encoder.{name}"] = key
        if name == "text_projection":
            found["lora_te1_text_projection"] = key
    return found


def load_lora(
    path: str | Path, model: Model | None, clip: CLIP | None, strength_model: float, strength_clip: float
) -> tuple[Model | None, CLIP | None]:
    """Clones of the two with a LoRA file's changes added; None stays None, strength 0 adds nothing.

    Names in the file that belong to neither are warned about, as workflows go on without them. Raises BadInput when
    the file cannot be read.
    """
    manager = model or clip
    if manager is None:
        return None, None
    header = CheckpointHeader.read(path, use_mmap=not manager.memory.settings.disable_mmap)
    keys = (model_keys(model) if model is not None else {}) | (clip_keys(clip) if clip is not None else {})
    found = read_adapters(header, keys)
    new_model, new_clip = model, clip
    if model is not None and strength_model:
        new_model = model.clone()
        new_model.add_patches(found.adapters, strength_model)
    if clip is not None and strength_clip:
        new_clip = clip.clone()
        new_clip.add_patches(found.adapters, strength_clip)
    if found.unused and model is not None and clip is not None:
        _warn(header, found.unused)
    return new_model, new_clip


def _warn(header: CheckpointHeader, unused: tuple[str, ...]) -> None:
    if len(unused) == len(header):
        _log.warning("%s changes nothing: it is made for another model family, or it is no LoRA.", header.path.name)
    shown = ", ".join(unused[:5]) + (" …" if len(unused) > 5 else "")
    _log.warning("%s: %d tensors belong to nothing in the model: %s", header.path.name, len(unused), shown)
