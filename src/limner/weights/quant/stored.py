"""Quantized tensors written: what a file holds of them, by the guide's names, and what its metadata says of it.

Layers of the diffusion model are named in the header's metadata, by their names in it; all others have a `comfy_quant`
tensor beside their weight.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.weights.quant.form import WEIGHT
from limner.weights.quant.forms.in_band import LEAF
from limner.weights.quant.forms.metadata import KEY, VERSION
from limner.weights.quant.layout import Layout
from limner.weights.quant.parts import Parts
from limner.weights.quant.tensor import QuantizedTensor

PREFIXES = ("model.diffusion_model.", "model.model.", "net.")
"""What the names of a diffusion model begin with in a file that holds more, or that says it all the same."""
DTYPE_NAMES = {torch.float8_e4m3fn: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2"}


@dataclass(frozen=True)
class Said:
    """What a file says beside its tensors of quantized ones. tensors: of bytes, by name. metadata: all of it."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def settings(layout: Layout, parts: Parts) -> dict[str, Any]:
    """What is said of a layer: its format, and what belongs to it that is not the format's own."""
    plain = parts.plain
    found: dict[str, Any] = {"format": DTYPE_NAMES.get(plain.get("dtype"), layout.format)}  # type: ignore[arg-type]
    if "group" in plain:
        found["group_size"] = plain["group"]
    if plain.get("full_precision"):
        found["full_precision_matrix_mult"] = True
    if "activations" in plain:
        found["activations"] = plain["activations"]
    if layout.shape_of(parts.numbers) != parts.shape:
        found["orig_shape"] = list(parts.shape)
    return found


def named(layout: Layout, parts: Parts, weight: str) -> dict[str, Tensor]:
    """The tensors of a weight by the names that a file has them under. Raises BadInput where a part has none."""
    layer = weight.removesuffix(WEIGHT)
    try:
        return {f"{layer}.{name}": one for name, one in layout.to_file(parts).items()}
    except KeyError as error:
        raise BadInput(
            f"{weight} cannot be saved in {layout.name}.",
            why=f"The guide has no name for its part {error}.",
            do="Dequantize it, or let the layout say in `stored` what its parts are called.",
        ) from None


def said(layers: Mapping[str, Mapping[str, Any]], metadata: Mapping[str, str]) -> Said:
    """Where a file says what of its layers. layers: by full name. metadata: what else there is."""
    prefix = next((one for one in PREFIXES if any(name.startswith(one) for name in layers)), "")
    inside = {name[len(prefix) :]: dict(one) for name, one in sorted(layers.items()) if name.startswith(prefix)}
    beside = {f"{name}.{LEAF}": _text(one) for name, one in layers.items() if not name.startswith(prefix)}
    kept = {name: text for name, text in metadata.items() if name != KEY}
    if inside:
        kept[KEY] = json.dumps({"format_version": VERSION, "layers": inside})
    return Said(beside, kept)


def as_stored(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors as plain ones, and the metadata with what is said of those that were quantized.

    A weight that the guide has no name for, or that is the other way round, is dequantized.
    """
    if not any(isinstance(one, QuantizedTensor) for one in tensors.values()):
        return dict(tensors), dict(metadata)
    plain: dict[str, Tensor] = {}
    layers: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, QuantizedTensor):
            plain[name] = tensor
        elif not has_name(name) or tensor._transposed:
            plain[name] = tensor.dequantize().contiguous()
        else:
            plain |= named(tensor.packing, tensor.parts, name)
            layers[name.removesuffix(WEIGHT)] = settings(tensor.packing, tensor.parts)
    told = said(layers, metadata)
    _refuse_taken(told.tensors, tensors)
    return plain | dict(told.tensors), dict(told.metadata)


def has_name(name: str) -> bool:
    """Whether the guide has names for the parts of this tensor: it is the weight of a layer."""
    return name.endswith(WEIGHT) and name != WEIGHT


def _refuse_taken(names: Iterable[str], tensors: Mapping[str, Tensor]) -> None:
    taken = sorted(set(names) & set(tensors))
    if taken:
        raise BadInput(f"A tensor is called {taken[0]!r}.", why="That name says how its layer is quantized.")


def _text(one: Mapping[str, Any]) -> Tensor:
    return torch.tensor(list(json.dumps(dict(one)).encode()), dtype=torch.uint8)
