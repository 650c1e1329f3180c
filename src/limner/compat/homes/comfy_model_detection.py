"""comfy.model_detection: what a state dict's names say of a network."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from limner.models.convert import unet_from_diffusers
from limner.models.detect import detect, diffusion_prefix
from limner.models.layers.shapes import count
from limner.models.unet import UNetConfig
from limner.weights import CheckpointHeader


def count_blocks(state_dict_keys: Collection[str], prefix_string: str) -> int:
    """How many of a prefix with {} = 0, 1, 2 … there are in a row."""
    return count(dict.fromkeys(state_dict_keys, ()), prefix_string)


def calculate_transformer_depth(prefix: str, state_dict_keys: Collection[str], state_dict: Mapping[str, Tensor]) -> Any:
    """(depth, context width, linear projection, temporal, spatial cross-attention) of a transformer, or None."""
    before = f"{prefix}1.transformer_blocks."
    if not any(name.startswith(before) for name in state_dict_keys):
        return None
    depth = count_blocks(state_dict_keys, before + "{}")
    context = state_dict[f"{before}0.attn2.to_k.weight"].shape[1]
    linear = len(state_dict[f"{prefix}1.proj_in.weight"].shape) == 2
    temporal = any(name.startswith(f"{prefix}1.time_stack") for name in state_dict_keys)
    return depth, context, linear, temporal, temporal


def unet_prefix_from_state_dict(state_dict: Mapping[str, Any]) -> str:
    """What the names of the diffusion model begin with."""
    prefix = diffusion_prefix(CheckpointHeader.of(state_dict))
    return prefix or "model."


def detect_unet_config(
    state_dict: Mapping[str, Tensor], key_prefix: str, metadata: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """The reference's arguments of a UNet, or None for another network."""
    header = CheckpointHeader.of(state_dict, metadata).select(key_prefix)
    if "input_blocks.0.0.weight" not in header:
        return None
    return plain(UNetConfig.from_state(header.shapes(), {}))


def plain(config: UNetConfig) -> dict[str, Any]:
    """A UNet's configuration under the names of the reference's arguments."""
    channels = config.adm_in_channels
    return {
        "use_checkpoint": False,
        "image_size": 32,
        "use_spatial_transformer": True,
        "legacy": False,
        "num_classes": "sequential" if channels is not None else config.num_classes,
        "adm_in_channels": channels,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "model_channels": config.model_channels,
        "num_res_blocks": list(config.num_res_blocks),
        "transformer_depth": list(config.transformer_depth),
        "transformer_depth_output": list(config.transformer_depth_output),
        "transformer_depth_middle": config.transformer_depth_middle,
        "channel_mult": list(config.channel_mult),
        "use_linear_in_transformer": config.use_linear_in_transformer,
        "context_dim": config.context_dim,
        "num_heads": config.num_heads,
        "num_head_channels": config.num_head_channels,
        "use_temporal_resblock": False,
        "use_temporal_attention": False,
    }


def convert_config(unet_config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with one number of blocks for all levels, or with attention by resolution, as newer ones are."""
    found = dict(unet_config)
    blocks, mult = found.get("num_res_blocks"), found.get("channel_mult")
    if isinstance(blocks, int) and mult is not None:
        found["num_res_blocks"] = blocks = [blocks] * len(mult)
    resolutions = found.pop("attention_resolutions", None)
    if resolutions is None or blocks is None:
        return found
    depth = found.get("transformer_depth")
    middle = found.pop("transformer_depth_middle", None)
    levels = [depth] * len(blocks) if isinstance(depth, int) else list(depth or [0] * len(blocks))
    down: list[int] = []
    up: list[int] = []
    for level, number in enumerate(blocks):
        here = levels[level] if 2**level in resolutions else 0
        down += [here] * number
        up += [here] * (number + 1)
    found["transformer_depth"], found["transformer_depth_output"] = down, up
    found["transformer_depth_middle"] = levels[-1] if middle is None else middle
    return found


def model_config_from_unet(
    state_dict: Mapping[str, Tensor], unet_key_prefix: str, use_base_if_no_match: bool = False, metadata: Any = None
) -> Any:
    """The configuration of a diffusion model's tensors. Raises BadInput when no family matches."""
    del use_base_if_no_match
    header = CheckpointHeader.of(state_dict, metadata)
    match = detect(header.select(unet_key_prefix) if unet_key_prefix else header)
    config = match.family.infer_config(match.diffusion, {})
    unet = plain(config) if isinstance(config, UNetConfig) else dict(vars(config))
    return SimpleNamespace(
        unet_config=unet, latent_format=match.family.latent, family=match.family.name, sampling_settings={}
    )


def unet_config_from_diffusers_unet(state_dict: Mapping[str, Tensor], dtype: Any = None) -> dict[str, Any] | None:
    """The reference's arguments of a UNet with diffusers' names, or None for another network."""
    header = unet_from_diffusers(CheckpointHeader.of(state_dict))
    if "input_blocks.0.0.weight" not in header:
        return None
    return {**plain(UNetConfig.from_state(header.shapes(), {})), "dtype": dtype}


def model_config_from_diffusers_unet(state_dict: Mapping[str, Tensor]) -> Any:
    """The configuration of a UNet with diffusers' names."""
    header = unet_from_diffusers(CheckpointHeader.of(state_dict))
    return model_config_from_unet({name: header.tensor(name) for name in header}, "")


def detect_layer_quantization(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the metadata says of quantised layers, by their names, taken out of it; None for nothing.

    Raises ValueError where it is no JSON, or names no layers.
    """
    found = (metadata or {}).pop("_quantization_metadata", None)
    told = json.loads(found) if isinstance(found, str | bytes) else found
    if told is None:
        return None
    if not isinstance(told, dict) or "layers" not in told:
        raise ValueError("_quantization_metadata names no layers")
    layers: dict[str, Any] = told["layers"]
    return layers


NUMBER = re.compile(r"\d+")
