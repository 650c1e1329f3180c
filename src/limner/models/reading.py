"""Opening model files as the settings say."""

from __future__ import annotations

from pathlib import Path

from limner.memory import MemoryManager
from limner.weights import CheckpointHeader, files
from limner.weights.quant.files import quantized


def read_header(path: str | Path, memory: MemoryManager) -> CheckpointHeader:
    """The header of a file, mapped unless the settings forbid it; quantized weights told as what they stand for."""
    return quantized(files.header(path, use_mmap=not memory.settings.disable_mmap))
