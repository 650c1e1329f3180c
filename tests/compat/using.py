"""A place with a small checkpoint, for tests that use ComfyUI's names as packs do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from limner.compat.setup import Compat
from limner.engine import NodeRegistry
from limner.settings import Settings
from limner.store import Store
from tests.models.checkpoints import checkpoint, memory, tensors


@contextmanager
def place(folder: Path, **settings) -> Iterator[Compat]:
    """ComfyUI's names over a folder that has models/checkpoints/tiny.safetensors; computes in float32 on the CPU."""
    (folder / "models" / "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.manual_seed(7)
    checkpoint(folder / "models" / "checkpoints", tensors(context_dim=8))
    chosen = Settings(base_directory=str(folder), **settings)
    store = Store.open(chosen)
    manager = memory()
    compat = Compat(chosen, store, NodeRegistry.open(), lambda: manager, cache=False)
    try:
        with torch.inference_mode():
            yield compat
    finally:
        manager.unload_all()
        compat.close()
        store.close()
