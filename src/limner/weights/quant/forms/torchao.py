"""torchao's form: the metadata names every tensor and its class; the inner tensors of a weight are `_weight_<part>`.

metadata["tensor_names"]: a JSON list. metadata[tensor]: {"_type": class, "_data": attributes}. Read are float8 and int8
with one scale, or one for each row.
Source: the torchao library, `prototype/safetensors`.
"""

from __future__ import annotations

import json
from math import prod
from typing import Any

import torch

from limner.weights.header import CheckpointHeader
from limner.weights.quant.form import WEIGHT, Form, Found, Stored, bad, parsed
from limner.weights.quant.operations import ROWWISE
from limner.weights.quant.registry import REGISTRY

NAMES = "tensor_names"
PLAIN = "Tensor"
CLASSES = {
    "Float8Tensor": {torch.float8_e4m3fn: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2"},
    "Int8Tensor": {torch.int8: "int8_tensorwise"},
}
SIXTEEN_BITS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def find(header: CheckpointHeader) -> Found:
    """The tensors that the metadata gives a class. Raises BadInput for one that is not read."""
    if NAMES not in header.metadata:
        return Found()
    try:
        names = json.loads(header.metadata[NAMES])
    except (ValueError, RecursionError):
        return Found()  # another program's
    if not isinstance(names, list) or not all(isinstance(one, str) and one in header.metadata for one in names):
        return Found()
    weights: list[Stored] = []
    consumed: set[str] = set()
    for name in names:
        said = parsed(header, header.metadata[name], f"The metadata {name}")
        if said.get("_type") == PLAIN:
            continue
        weights.append(_stored(header, name, said))
        consumed |= {one for one in header if one.startswith(_inner(name, ""))}
    return Found(tuple(weights), frozenset(consumed), frozenset((NAMES, *names)))


def _inner(name: str, part: str) -> str:
    layer, _, leaf = name.rpartition(".")
    return f"{layer}._{leaf}_{part}" if layer else f"_{leaf}_{part}"


def _stored(header: CheckpointHeader, name: str, said: dict[str, Any]) -> Stored:
    kind, data = said.get("_type"), said.get("_data")
    if kind not in CLASSES or not isinstance(data, dict):
        raise bad(
            header, f"{name} is torchao's {kind}.", f"Read are {', '.join(CLASSES)}.",
            "Get the file in one of those, or quantize the full model with `limner quantize`.",
        )  # fmt: skip
    tensors = {}
    for ours, theirs in (("weight", "qdata"), ("weight_scale", "scale")):
        entry = header.tensors.get(_inner(name, theirs))
        if entry is None:
            raise bad(header, f"There is no tensor {_inner(name, theirs)}.", f"{name} is made of it.")
        tensors[ours] = entry
    numbers, scale = tensors["weight"], tensors["weight_scale"]
    layout = CLASSES[kind].get(numbers.dtype)
    if layout is None or not name.endswith(WEIGHT):
        raise bad(header, f"{name} holds {numbers.dtype}.", f"torchao's {kind} does not.")
    if _inner(name, "zero_point") in header:
        raise bad(header, f"{name} has zero points.", "Read are symmetric numbers.", "Get the file in another form.")
    if prod(scale.shape) != 1:
        layout = ROWWISE[layout]
    dtype = data.get("dtype")
    told = dtype.get("_data") if isinstance(dtype, dict) else None
    dynamic = data.get("act_quant_kwargs") is not None
    return Stored(
        name,
        REGISTRY.find(layout),
        tensors,
        {"activations": "dynamic"} if dynamic else {},
        dtype=SIXTEEN_BITS.get(str(told)),
    )


FORM = Form(find)
