"""LoRA files: the names by which they call a model's weights, and loading them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from limner.models.clip import CLIP
from limner.models.lora_keys import text_names
from limner.models.model import Model
from limner.weights import CheckpointHeader, files, read_adapters

__all__ = ["clip_keys", "load_lora", "model_keys", "text_names"]

_log = logging.getLogger(__name__)


def model_keys(model: Model) -> dict[str, Any]:
    """What a LoRA file may call this model's weights: name without suffix → patch key."""
    return model.lora_names()


def clip_keys(clip: CLIP) -> dict[str, str]:
    """What a LoRA file may call this text encoder's weights."""
    return text_names(clip.source.tensors)


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
    header = files.header(path, use_mmap=not manager.memory.settings.disable_mmap)
    return add_lora(header, model, clip, strength_model, strength_clip)


def add_lora(
    header: CheckpointHeader, model: Model | None, clip: CLIP | None, strength_model: float, strength_clip: float
) -> tuple[Model | None, CLIP | None]:
    """The same of tensors that have been read."""
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
