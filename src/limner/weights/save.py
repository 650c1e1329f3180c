"""Writing safetensors files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.weights.safetensors import DTYPES

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def save(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors and metadata as a safetensors file, one tensor at a time; the file appears only when complete.

    Raises BadInput for a dtype that the format has no name for.
    """
    path = Path(path)
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))  # keeps every tensor aligned
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise BadInput(f"Tensor {name!r} has the dtype {tensor.dtype}, which safetensors cannot hold.")
        begin, end = end, end + tensor.numel() * tensor.dtype.itemsize
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                if tensors[name].numel():
                    file.write(_bytes(tensors[name]))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _bytes(tensor: Tensor) -> Any:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data
