"""Whether a quantized weight is multiplied by its layout here, and by nothing that a pack or torch puts in between."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor

from limner.weights.quant.operations import addmm, aten, convolution, linear, mm
from limner.weights.quant.registry import REGISTRY
from limner.weights.quant.tensor import QuantizedTensor

PRODUCTS = {
    aten.linear.default: linear,
    aten.addmm.default: addmm,
    aten.mm.default: mm,
    aten.convolution.default: convolution,
}
"""What torch makes of layers with a product, and who does it where no pack registered something else."""


def multiplied_by_layout(weight: Any, x: Tensor) -> TypeGuard[QuantizedTensor]:
    """Whether a product of the two is the layout's own, in x's dtype.

    Not where gradients are asked for, where torch traces, and where a pack registered a product of its own.
    """
    return (
        isinstance(weight, QuantizedTensor)
        and type(x) is Tensor
        and not weight._transposed
        and not torch.compiler.is_compiling()
        and not (x.requires_grad and torch.is_grad_enabled())
        and all(REGISTRY.able(operation, weight.packing)[0] is own for operation, own in PRODUCTS.items())
    )
