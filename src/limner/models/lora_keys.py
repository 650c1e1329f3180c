"""The names by which LoRA files call the weights of diffusion models and text encoders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_TEXT_MODULES = (
    "mlp.fc1", "mlp.fc2", "self_attn.k_proj", "self_attn.q_proj", "self_attn.v_proj", "self_attn.out_proj",
)  # fmt: skip


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
