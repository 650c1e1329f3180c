"""Files that say nothing but have the names: scales beside a weight, whose dtypes tell the layout.

So do NVIDIA's ModelOpt in its unified checkpoints (float8, nvfp4, int8 with `pre_quant_scale`) and others.
Source: ModelOpt's documentation, "Unified Hugging Face checkpoint".
"""

from __future__ import annotations

from math import prod

import torch

from limner.weights.header import CheckpointHeader
from limner.weights.lazy import LazyTensor
from limner.weights.quant.form import WEIGHT, Form, Found, Stored, bad, beside, by_rows, taken
from limner.weights.quant.registry import REGISTRY

SCALE = "weight_scale"
EIGHT_BITS = {torch.float8_e4m3fn: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2", torch.int8: "int8_tensorwise"}
EXPONENTS = tuple(getattr(torch, name) for name in ("uint8", "float8_e8m0fnu") if hasattr(torch, name))


def find(header: CheckpointHeader) -> Found:
    """The layers with a `weight_scale`. Raises BadInput where it has no weight, or one that it does not fit."""
    weights: list[Stored] = []
    consumed: set[str] = set()
    for name in header:
        layer, _, leaf = name.rpartition(".")
        if leaf != SCALE:
            continue
        if layer + WEIGHT not in header:
            raise bad(header, f"{name} scales nothing.", f"There is no {layer + WEIGHT}.")
        tensors = beside(header, layer)
        layout = REGISTRY.find(_layout(header, layer, tensors))
        weights.append(Stored(layer + WEIGHT, by_rows(layout, tensors["weight"], tensors[SCALE]), tensors))
        consumed |= taken(layer)
    return Found(tuple(weights), frozenset(consumed))


def _layout(header: CheckpointHeader, layer: str, tensors: dict[str, LazyTensor]) -> str:
    weight, scale = tensors["weight"], tensors[SCALE]
    blocks = prod(scale.shape) not in (1, weight.shape[0] if weight.shape else 0)
    if weight.dtype == torch.float8_e4m3fn and scale.dtype in EXPONENTS and blocks:
        return "mxfp8"
    if weight.dtype in EIGHT_BITS:
        return EIGHT_BITS[weight.dtype]
    if weight.dtype == torch.uint8 and "weight_scale_2" in tensors and scale.dtype.itemsize == 1:
        return "nvfp4"
    raise bad(
        header,
        f"{layer + WEIGHT} is quantized, but the file does not say how.",
        f"It is {weight.dtype} {list(weight.shape)} with scales {scale.dtype} {list(scale.shape)}.",
        "Get the file in a form that says it, such as `_quantization_metadata`.",
    )


FORM = Form(find, said=False)
