"""Layers that are given the same: what they are given is rounded once for all of them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from limner.weights.ops import Linear, cast
from limner.weights.quant.direct import multiplied_by_layout
from limner.weights.quant.layout import OF_INPUTS, Layout
from limner.weights.quant.parts import Parts
from limner.weights.quant.tensor import QuantizedTensor


def projected(*pairs: tuple[nn.Module, Tensor]) -> list[Tensor]:
    """Each layer of its inputs, as if it were called; for queries, keys and values of an attention.

    Inputs that go to several layers of one layout are rounded once. Measured in a step of SDXL at 256×256 in
    int8_dynamic: 4 % less time than with each layer by itself.
    """
    rounded: dict[tuple[int, Layout], Parts] = {}
    results = []
    for layer, x in pairs:
        weight = _rounding_weight(layer, x)
        product = None if weight is None else _product(x, weight, cast(layer.bias, x), rounded)  # type: ignore[arg-type]
        results.append(layer(x) if product is None else product)
    return results


def _product(
    x: Tensor, weight: QuantizedTensor, bias: Tensor | None, rounded: dict[tuple[int, Layout], Parts]
) -> Tensor | None:
    parts, packing = weight.parts, weight.packing
    inputs = rounded.get((id(x), packing))
    if inputs is None:
        inputs = rounded[id(x), packing] = packing.encode_inputs(x.reshape(-1, x.shape[-1]), parts)
    product = packing.linear_of_parts(inputs, parts, bias, x.dtype)
    return None if product is None else product.view(*x.shape[:-1], -1)


def _rounding_weight(layer: nn.Module, x: Tensor) -> QuantizedTensor | None:
    """The weight, where the layer would round x by nothing but x; None where it computes otherwise or is watched."""
    weight = getattr(layer, "weight", None)
    if not multiplied_by_layout(weight, x):
        return None
    hooks = layer._forward_hooks or layer._forward_pre_hooks or _has_any_global_hook()  # type: ignore[no-untyped-call]
    if hooks or type(layer) is not Linear or "forward" in vars(layer) or layer.streamed is not None:
        return None
    packing, parts = weight.packing, weight.parts
    rounds = packing.rounds_inputs(parts) and not OF_INPUTS & parts.tensors.keys()
    return weight if rounds and packing.multiplies(x.device) else None
