"""comfy.lora: LoRA files against the names of a model's weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from limner.models.lora_keys import text_names
from limner.weights import CheckpointHeader, read_adapters
from limner.weights.adapters.lora import pad as pad_to

log = logging.getLogger(__name__)

LORA_CLIP_MAP = {
    "mlp.fc1": "mlp_fc1",
    "mlp.fc2": "mlp_fc2",
    "self_attn.k_proj": "self_attn_k_proj",
    "self_attn.q_proj": "self_attn_q_proj",
    "self_attn.v_proj": "self_attn_v_proj",
    "self_attn.out_proj": "self_attn_out_proj",
}


def load_lora(lora: Mapping[str, Tensor], to_load: Mapping[str, Any], log_missing: bool = True) -> dict[Any, Any]:
    """The changes that a LoRA's tensors make, by weight. to_load: name in the file without suffix → weight."""
    found = read_adapters(CheckpointHeader.of(lora), to_load)
    if log_missing:
        for name in found.unused:
            log.warning("lora key not loaded: %s", name)
    return dict(found.adapters)


def model_lora_keys_unet(model: Any, key_map: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a LoRA file may call a model's weights, added to `key_map`. model: `model.model` of a loaded one."""
    keys: dict[str, Any] = {} if key_map is None else key_map
    patcher = getattr(model, "current_patcher", model)
    keys.update(patcher.lora_names())
    return keys


def model_lora_keys_clip(model: Any, key_map: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a LoRA file may call a text encoder's weights. model: `clip.cond_stage_model`."""
    keys: dict[str, Any] = {} if key_map is None else key_map
    clip = getattr(model, "clip", model)
    keys.update(text_names(clip.source.tensors))
    return keys


def pad_tensor_to_shape(tensor: Tensor, new_shape: list[int]) -> Tensor:
    """A tensor with zeros after it on every axis. Raises ValueError where it would become smaller."""
    return pad_to(tensor, tuple(new_shape))
