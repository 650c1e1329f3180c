"""The older form: `scale_weight` and `scale_input` beside eight-bit floats, and a tensor `scaled_fp8` that marks it.

The marker's dtype is that of the numbers, float32 meaning e4m3fn; with two elements it asks for products in full
precision. It stands before all layers of a network that it marks. An input's scale of exactly 1 says nothing.
"""

from __future__ import annotations

from math import prod

import torch

from limner.weights.header import CheckpointHeader
from limner.weights.lazy import LazyTensor
from limner.weights.quant.form import WEIGHT, Form, Found, Stored, bad, by_rows
from limner.weights.quant.registry import REGISTRY

MARKER = "scaled_fp8"
SCALE, INPUTS = "scale_weight", "scale_input"
LAYOUTS = {
    torch.float8_e4m3fn: "float8_e4m3fn",
    torch.float8_e5m2: "float8_e5m2",
    torch.float32: "float8_e4m3fn",
}


def find(header: CheckpointHeader) -> Found:
    """The layers with such scales. Raises BadInput for a scale without a weight, and for a marker of another dtype."""
    markers = {name for name in header if name.rpartition(".")[2] == MARKER}
    for name in markers:
        if header.dtype(name) not in LAYOUTS:
            raise bad(header, f"The marker {name} has the dtype {header.dtype(name)}.", "It names no eight-bit floats.")
    weights: list[Stored] = []
    consumed = {name for name in header if name.rpartition(".")[2] in (MARKER, SCALE)}
    if consumed:
        consumed |= {name for name in header if name.rpartition(".")[2] == INPUTS}
    for name in header:
        layer, _, leaf = name.rpartition(".")
        if leaf != SCALE:
            continue
        if layer + WEIGHT not in header:
            raise bad(header, f"{name} scales nothing.", f"There is no {layer + WEIGHT}.")
        found = _stored(header, layer, _marker(markers, name))
        weights += [] if found is None else [found]
    return Found(tuple(weights), frozenset(consumed))


def _marker(markers: set[str], name: str) -> str | None:
    """The marker of the network that a name belongs to: the one with the longest prefix."""
    fitting = [marker for marker in markers if name.startswith(marker.removesuffix(MARKER))]
    return max(fitting, key=len, default=None)


def _stored(header: CheckpointHeader, layer: str, marker: str | None) -> Stored | None:
    """A weight with its scales; None for floats of 16 bits or more that are scaled by exactly 1."""
    weight, scale = header.tensors[layer + WEIGHT], header.tensors[f"{layer}.{SCALE}"]
    if weight.dtype.is_floating_point and weight.dtype.itemsize > 1:
        if _is_one(scale):
            return None
        raise bad(header, f"{layer}.{SCALE} scales {weight.dtype}.", "Only eight-bit floats have scales.")
    dtype = header.dtype(marker) if weight.dtype == torch.uint8 and marker is not None else weight.dtype
    if dtype not in LAYOUTS:
        raise bad(header, f"{layer + WEIGHT} has the dtype {dtype}.", "Only eight-bit floats are scaled in this form.")
    layout = by_rows(REGISTRY.find(LAYOUTS[dtype]), weight, scale)
    tensors = {"weight": weight, "weight_scale": scale}
    inputs = header.tensors.get(f"{layer}.{INPUTS}")
    if inputs is not None and not _is_one(inputs):
        tensors["input_scale"] = inputs
    full = marker is not None and prod(header.shape(marker)) == 2
    return Stored(layer + WEIGHT, layout, tensors, {"full_precision": True} if full else {})


def _is_one(scale: LazyTensor) -> bool:
    return prod(scale.shape) == 1 and scale.dtype.is_floating_point and bool(scale.read().float() == 1)


FORM = Form(find)
