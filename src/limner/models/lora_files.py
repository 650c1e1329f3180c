"""LoRA files of programs that call their tensors otherwise than LoRAs' are called."""

from __future__ import annotations

from limner.models.detect import families
from limner.weights.header import CheckpointHeader


def under_known_names(header: CheckpointHeader) -> CheckpointHeader:
    """Such a file under names that are known, as the first family says that knows it; any other as it is."""
    for family in families().values():
        for layout in family.lora.layouts:
            if all(mark.test(header) for mark in layout.marks):
                return layout.known(header)
    return header
