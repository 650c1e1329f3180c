"""The names by which LoRA files call the weights of diffusion models and text encoders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from limner.models.convert import unet_aliases
from limner.models.family import LoraNames
from limner.weights.targets import Target, patch_target

_TEXT_MODULES = (
    "mlp.fc1", "mlp.fc2", "self_attn.k_proj", "self_attn.q_proj", "self_attn.v_proj", "self_attn.out_proj",
)  # fmt: skip


def diffusion_names(names: Sequence[str], prefix: str, lora: LoraNames, config: Any) -> dict[str, Any]:
    """LoRA names of a diffusion model's tensors: name without suffix → patch key, or (key, part[, function]).

    names: of the network. prefix: what patch keys have before them.
    """
    found: dict[str, Any] = {}
    for name in names:
        key = prefix + name
        if not name.endswith(".weight"):
            found[key] = key
            continue
        short = name.removesuffix(".weight")
        for written in ("lora_unet_{flat}", prefix + "{dots}", *lora.own):
            found[_written(written, short)] = key
    for alias, target in lora.aliases(config, names).items():
        for written in lora.templates:
            found[_written(written, alias)] = patch_target(target, prefix)
    return found


def _written(template: str, name: str) -> str:
    return template.format(dots=name, flat=name.replace(".", "_"))


def weights_alone(targets: Mapping[str, Target]) -> dict[str, Target]:
    """Of another layout's names those of weights, without `.weight`: aliases for `LoraNames`."""
    return {name.removesuffix(".weight"): target for name, target in targets.items() if name.endswith(".weight")}


def unet_lora_aliases(config: Any, names: Sequence[str]) -> dict[str, Target]:
    """Diffusers' names of a UNet's weights, and those of its attention processors."""
    found: dict[str, Target] = {}
    for alias, short in unet_aliases(names, config.num_res_blocks).items():
        found[alias.replace(".to_", ".processor.to_").replace(".to_out.0", ".to_out")] = f"{short}.weight"
        found[alias] = f"{short}.weight"
    return found


UNET_LORA_NAMES = LoraNames(unet_lora_aliases, ("lora_unet_{flat}", "lycoris_{flat}", "{dots}", "unet.{dots}"))
"""Of every UNet."""


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
