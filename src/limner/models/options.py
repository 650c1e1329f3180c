"""`model_options`: what nodes and packs hang on a model, and how a copy of it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

from torch import Tensor

Hook = Callable[..., Any]


class TransformerOptions(TypedDict, total=False):
    """What reaches the network: hooks by point, replacements by point and place, and facts about the run."""

    patches: dict[str, list[Hook]]
    patches_replace: dict[str, dict[tuple[Any, ...], Hook]]
    cond_or_uncond: list[int]
    uuids: list[Any]
    sigmas: Tensor
    sample_sigmas: Tensor
    rope_options: dict[str, float]
    optimized_attention_override: Hook
    wrappers: dict[str, dict[Any, list[Hook]]]
    callbacks: dict[str, dict[Any, list[Hook]]]


class ModelOptions(TypedDict, total=False):
    """What reaches the sampling loop, and through it the network."""

    transformer_options: TransformerOptions
    sampler_cfg_function: Hook
    sampler_post_cfg_function: list[Hook]
    sampler_pre_cfg_function: list[Hook]
    sampler_calc_cond_batch_function: Hook
    model_function_wrapper: Hook
    denoise_mask_function: Hook
    disable_cfg1_optimization: bool


def copied(value: Any) -> Any:
    """Dictionaries and lists copied all the way down, everything else shared."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value
