"""The names by which LoRA files call the weights of diffusion models and text encoders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from limner.models.convert import unet_aliases
from limner.models.family import LoraNames
from limner.models.text.kinds import encoders
from limner.weights.targets import Target, patch_target


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
    for part, target in lora.parts(config, names).items():
        found[prefix + part] = patch_target(target, prefix)
    for alias, target in lora.aliases(config, names).items():
        for written in lora.templates:
            found[_written(written, alias)] = patch_target(target, prefix)
    return found


def _written(template: str, name: str) -> str:
    return template.format(dots=name, flat=name.replace(".", "_"))


def weights_alone(targets: Mapping[str, Target], names: Sequence[str]) -> dict[str, Target]:
    """Of another layout's names those of weights that are among `names`, without `.weight`: for `LoraNames`."""
    there = set(names)
    return {
        name.removesuffix(".weight"): target
        for name, target in targets.items()
        if name.endswith(".weight") and (target if isinstance(target, str) else target.name) in there
    }


def unet_lora_aliases(config: Any, names: Sequence[str]) -> dict[str, Target]:
    """Diffusers' names of a UNet's weights, and those of its attention processors."""
    found: dict[str, Target] = {}
    for alias, short in unet_aliases(names, config.num_res_blocks).items():
        found[alias.replace(".to_", ".processor.to_").replace(".to_out.0", ".to_out")] = f"{short}.weight"
        found[alias] = f"{short}.weight"
    return found


UNET_LORA_NAMES = LoraNames(
    unet_lora_aliases,
    ("lora_unet_{flat}", "lycoris_{flat}", "{dots}", "unet.{dots}"),
    signs=("input_blocks_", "output_blocks_", "down_blocks_", "up_blocks_"),
)
"""Of every UNet."""


def text_names(names: Iterable[str]) -> dict[str, str]:
    """LoRA names of text encoders' tensors: name without suffix → patch key.

    names: of a CLIP's tensors, such as `clip_l.transformer.text_model…`; they are the patch keys.
    """
    keys = [name for name in names if name.endswith(".weight")]
    there = frozenset(key.partition(".")[0] for key in keys)
    found: dict[str, str] = {}
    for key in keys:
        encoder, _, rest = key.partition(".")
        kind = encoders().get(encoder)
        module = rest.removeprefix("transformer.").removesuffix(".weight")
        found[f"text_encoders.{key.removesuffix('.weight')}"] = key
        if kind is not None:
            found |= dict.fromkeys(kind.lora(module, there), key)
    return found
