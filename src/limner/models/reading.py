"""Opening model files as the settings say."""

from __future__ import annotations

from pathlib import Path

from limner.memory import MemoryManager
from limner.weights import CheckpointHeader, files


def read_header(path: str | Path, memory: MemoryManager) -> CheckpointHeader:
    """The header of a file, mapped unless the settings forbid it."""
    return files.header(path, use_mmap=not memory.settings.disable_mmap)
