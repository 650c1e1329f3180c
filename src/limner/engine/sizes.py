"""How much memory results take: as a policy weighs them, and exactly."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

TENSOR_SHARE = 0.5
"""Tensors count half where results are weighed: others may hold them too."""
DEEPEST = 8
"""Levels of lists and dicts that are looked into."""


def ram_of(value: Any, depth: int = 0) -> float:
    """Bytes of main memory by which a result is weighed: tensors, lists and dicts of them, and objects that say it."""
    if depth > DEEPEST or value is None or isinstance(value, (str, int, float, bool)):
        return 0.0
    if isinstance(value, (list, tuple)):
        return sum(ram_of(one, depth + 1) for one in value)
    if isinstance(value, dict):
        return sum(ram_of(one, depth + 1) for one in value.values())
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return value.numel() * value.element_size() * TENSOR_SHARE if value.device.type == "cpu" else 0.0
    said = getattr(value, "get_ram_usage", None)
    return float(said()) if callable(said) else 0.0


class Piece(NamedTuple):
    """Memory that tensors may share: where it begins, and the device."""

    pointer: int
    device: str


def pieces(value: Any) -> dict[Piece, int]:
    """Bytes of each piece of memory that a value's tensors keep, on whatever device.

    Not the weights of models, which are no results: the memory manager has them. Without torch there are no tensors.
    """
    kind = getattr(sys.modules.get("torch"), "Tensor", None)
    if kind is None:
        return {}
    found: dict[Piece, int] = {}
    for tensor in _tensors(value, kind, 0):
        storage = tensor.untyped_storage()
        if tensor.device.type != "meta" and storage.nbytes():
            found[Piece(storage.data_ptr(), str(tensor.device))] = storage.nbytes()
    return found


def bytes_by_device(values: Iterable[Any]) -> dict[str, int]:
    """Bytes that the tensors of many values take on each device; memory that several share counts once."""
    found: dict[Piece, int] = {}
    for value in values:
        found |= pieces(value)
    sums: dict[str, int] = {}
    for piece, nbytes in found.items():
        sums[piece.device] = sums.get(piece.device, 0) + nbytes
    return sums


def _tensors(value: Any, kind: type, depth: int) -> Iterator[Any]:
    """The tensors in lists, dicts, videos and bundles of tensors."""
    if depth > DEEPEST or value is None or isinstance(value, (str, int, float, bool)):
        return
    if isinstance(value, kind):
        flat = getattr(value, "__tensor_flatten__", None)  # of several tensors, as quantized ones are
        yield from (value,) if flat is None else (getattr(value, name) for name in flat()[0])
        return
    if callable(getattr(value, "get_ram_usage", None)):
        return  # a model
    for one in _parts(value):
        yield from _tensors(one, kind, depth + 1)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, Mapping):
        return list(value.values())
    video = getattr(sys.modules.get("limner.store.video"), "VideoFromComponents", None)
    if video is not None and isinstance(value, video):
        found = value.get_components()
        return (found.images, found.audio)
    bundle = getattr(value, "tensors", None)
    return bundle if isinstance(bundle, (list, tuple)) else ()
