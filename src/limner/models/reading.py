"""Opening model files as the settings say."""

from __future__ import annotations

from pathlib import Path

from limner.memory import MemoryManager
from limner.weights import CheckpointHeader, files
from limner.weights.scaled import unscaled


def read_header(path: str | Path, memory: MemoryManager) -> CheckpointHeader:
    """The header of a file, mapped unless the settings forbid it; scaled weights told as what they stand for."""
    return unscaled(files.header(path, use_mmap=not memory.settings.disable_mmap))
