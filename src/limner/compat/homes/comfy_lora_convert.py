"""comfy.lora_convert: LoRA files of other programs under the names that are known."""

from __future__ import annotations

from typing import Any


def convert_lora(sd: dict[str, Any]) -> dict[str, Any]:
    """The tensors as they are: other names are for families that are not supported yet."""
    return sd


convert_lora_bfl_control = convert_lora
convert_lora_wan_fun = convert_lora
convert_uso_lora = convert_lora
