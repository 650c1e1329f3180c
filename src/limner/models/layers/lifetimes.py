"""Keeping tensors no longer than they are needed, in transformers whose feed-forward is the worst moment.

At that moment a block of width D holds, for each token, its residual (D), the inside of the feed-forward (4 D as a
rule) and what goes into it or comes out of it (D). These helpers keep a block's other moments below that: results are
written over what they replace where nobody else holds it.

Where gradients are recorded, what autograd has kept must not be written over; then every helper makes a new tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.weights.ops import Linear, cast


def add_gated(x: Tensor, gate: Tensor, change: Tensor) -> Tensor:
    """x + gate · change, written over x in one pass. x must be the caller's own; gate may broadcast."""
    if torch.is_grad_enabled():
        return torch.addcmul(x, gate, change)
    return x.addcmul_(gate, change)


def gelu(x: Tensor) -> Tensor:
    """GELU by its tanh form, written over x, which must be the caller's own. Hendrycks & Gimpel 2016."""
    if torch.is_grad_enabled():
        return F.gelu(x, approximate="tanh")
    return torch.ops.aten.gelu_(x, approximate="tanh")


def split_linear(layer: nn.Module, x: Tensor, parts: int) -> list[Tensor]:
    """x through a fused projection, as equal parts of the output that can be freed one by one.

    layer: a linear layer (or what a pack has put in its place) with parts · width outputs. x: (…, in).
    returns: tensors (…, width), each with storage of its own, unless the layer is not one of ours.
    """
    if type(layer) is not Linear or not untouched(layer):
        return list(layer(x).chunk(parts, dim=-1))
    weights = layer.weight.chunk(parts)
    biases = [None] * parts if layer.bias is None else layer.bias.chunk(parts)
    return [F.linear(x, cast(w, x), cast(b, x)) for w, b in zip(weights, biases, strict=True)]  # type: ignore[arg-type]


def untouched(module: nn.Module) -> bool:
    """Whether a call of the module is a call of its class's forward and nothing else: no hook, nothing compiled."""
    return not (
        "forward" in vars(module)
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._compiled_call_impl
    )
