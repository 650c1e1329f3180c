"""Keeping tensors no longer than they are needed, in transformers whose feed-forward is the worst moment.

At that moment a block of width D holds, for each token, its residual (D), the inside of the feed-forward (4 D as a
rule) and what goes into it or comes out of it (D). These helpers keep a block's other moments below that: results are
written over what they replace where nobody else holds it.

Where gradients are recorded, what autograd has kept must not be written over; then every helper makes a new tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.weights.ops import Linear, arrived, cast


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


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Pairs of features turned by the angles of their place, written over x, which must be the caller's own.

    x:        (B, S, heads, width), contiguous; pairs are (2i, 2i+1), as of RoFormer (Su et al. 2021, eq. 34).
    rotation: (1 or B, S, 1, width / 2, 2), float32: cosine and sine. The products are float32 as well, because
              bfloat16 cannot tell neighbouring places apart.
    """
    if torch.compiler.is_compiling():  # no code is generated for complex numbers
        cos, sin = rotation.unbind(-1)
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2).to(x.dtype)
    pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
    angles = torch.view_as_complex(rotation)
    if torch.is_grad_enabled():
        return torch.view_as_real(pairs * angles).flatten(-2).to(x.dtype)
    turned = torch.view_as_real(pairs.mul_(angles)).flatten(-2)
    return turned if turned.dtype == x.dtype else x.copy_(turned)


def split_linear(layer: nn.Module, x: Tensor, parts: int) -> Iterator[Tensor]:
    """x through a fused projection, as equal parts of the output, each made when it is asked for.

    layer: a linear layer (or what a pack has put in its place) with parts · width outputs. x: (…, in).
    yields: tensors (…, width), each with storage of its own.
    """
    if not isinstance(layer, Linear) or not untouched(layer, _LINEAR):
        yield from (part.contiguous() for part in layer(x).chunk(parts, dim=-1))
        return
    width = layer.out_features // parts
    for place in range(parts):
        yield part_of(layer, x, place * width, width)


def part_of(layer: Linear, x: Tensor, start: int, length: int) -> Tensor:
    """Outputs start … start + length of a linear layer. x: (…, in) → (…, length)."""
    rows = slice(start, start + length)
    if layer.streamed is not None:
        weight, whole = arrived(layer, x)
        return F.linear(x, weight[rows], None if whole is None else whole[rows])
    bias = None if layer.bias is None else layer.bias[rows]
    return F.linear(x, cast(layer.weight[rows], x), cast(bias, x))  # type: ignore[arg-type]


def untouched(module: nn.Module, forward: Callable[..., object]) -> bool:
    """Whether calling a module runs `forward` and nothing else: nobody has replaced it, hooked it or compiled it.

    forward: of the module's class, as it was written.
    """
    return type(module).forward is forward and not (
        "forward" in vars(module)
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._compiled_call_impl
    )


_LINEAR = Linear.forward
