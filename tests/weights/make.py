"""Files to read: safetensors with any header, pickles with anything in them."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch


def safetensors(folder: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """A file with this header (bytes as they are, else as JSON) and data; `length` may lie about the header's."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "made.safetensors"
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def checkpoint(folder: Path, contents: Any, legacy: bool = False) -> Path:
    """What torch.save writes."""
    path = folder / "made.ckpt"
    torch.save(contents, path, _use_new_zipfile_serialization=not legacy)
    return path


class Reducing:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def pickled_zip(folder: Path, contents: Any) -> Path:
    """A zip with this pickled object as torch's data.pkl."""
    path = folder / "made.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(contents, protocol=2))
    return path
