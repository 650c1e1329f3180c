"""comfy.sampler_helpers: what is done before and after a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from limner.compat.homes._services import memory
from limner.sampling import prepare, preparing
from limner.sampling.preparing import (
    cleanup_additional_models,
    cleanup_models,
    control_hooks,
    get_additional_models,
    get_additional_models_from_model_options,
    prepare_sampling,
)

__all__ = [
    "cleanup_additional_models",
    "cleanup_models",
    "get_additional_models",
    "get_additional_models_from_model_options",
    "prepare_sampling",
]


def prepare_mask(noise_mask: Tensor, shape: Sequence[int], device: Any) -> Tensor:
    """A noise mask of any size as one shaped like a latent, on a device."""
    return memory().place(prepare.prepare_mask(noise_mask, torch.Size(shape)), torch.device(device))


def convert_cond(cond: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """[[tensor, dict], …] to conditions."""
    return list(prepare.convert_conditioning(cond))


def get_models_from_cond(cond: Sequence[Mapping[str, Any]], model_type: str) -> list[Any]:
    """The models under a key of conditions."""
    found: list[Any] = []
    for condition in cond:
        value = condition.get(model_type)
        if value is not None:
            found += value if isinstance(value, list) else [value]
    return found


def get_hooks_from_cond(cond: Sequence[Mapping[str, Any]], full_hooks: Any) -> Any:
    """The hooks of conditions, and those that their controls bring, added to a group."""
    groups = [condition["hooks"] for condition in cond if condition.get("hooks") is not None]
    for group in [*groups, *control_hooks({"": list(cond)})]:
        for hook in group.hooks:
            full_hooks.add(hook)
    return full_hooks


def estimate_memory(model: Any, noise_shape: Sequence[int], conds: Any) -> tuple[float, float]:
    """Bytes that a run needs beside the weights, and the least it can do with."""
    del conds
    rows = list(noise_shape)
    return float(model.memory_required([rows[0] * 2, *rows[1:]])), float(model.memory_required(rows))


def prepare_model_patcher(model: Any, conds: Any, model_options: dict[str, Any]) -> None:
    """Put a model's wrappers and callbacks among the options."""
    del conds
    model_options.update(preparing.options_for_run(model, model_options))
