"""Files of tensors as packs read them; a pack that puts its own reader here is asked for every file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from limner.weights.header import CheckpointHeader


def load_torch_file(
    ckpt: str | Path, safe_load: bool = False, device: Any = None, return_metadata: bool = False
) -> Any:
    """The tensors of a safetensors file or a pickled checkpoint by name, views of the file.

    Pickles are always read without running what they hold. return_metadata: a pair with the file's metadata, or None.
    """
    del safe_load, device
    header = CheckpointHeader.read(ckpt)
    found = {name: header.tensor(name) for name in header}
    return (found, dict(header.metadata) or None) if return_metadata else found


_OWN: Callable[..., Any] = load_torch_file


def header(path: str | Path, use_mmap: bool = True) -> CheckpointHeader:
    """The header of a file: read by a pack's `load_torch_file` where there is one."""
    reader = vars(sys.modules[__name__])["load_torch_file"]
    if reader is _OWN:
        return CheckpointHeader.read(path, use_mmap=use_mmap)
    found = reader(str(path), safe_load=True, return_metadata=True)
    tensors, metadata = found if isinstance(found, tuple) else (found, None)
    return CheckpointHeader.of(tensors, metadata)
