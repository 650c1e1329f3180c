"""comfy.lora_convert: LoRA files of other programs under the names that are known."""

from __future__ import annotations

from typing import Any

from limner.models.lora_files import under_known_names
from limner.weights import CheckpointHeader


def convert_lora(sd: dict[str, Any]) -> dict[str, Any]:
    """A LoRA's tensors under names that are known; itself where they are."""
    header = CheckpointHeader.of(sd)
    found = under_known_names(header)
    return sd if found is header else {name: found.tensor(name) for name in found}


convert_lora_bfl_control = convert_lora
convert_lora_wan_fun = convert_lora
convert_uso_lora = convert_lora
