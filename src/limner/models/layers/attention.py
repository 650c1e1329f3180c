"""Scaled dot-product attention over packed heads. Vaswani et al. 2017, "Attention is all you need"."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor
from torch.nn import functional as F


def attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, *, causal: bool = False
) -> Tensor:
    """softmax(q kᵀ / √width) v, head by head.

    q, k, v: (batch, length, heads·width); k and v may be of another length than q.
    mask:    None, or what broadcasts to (batch, heads, length of q, length of k): bool (true takes part) or added to
             the scores.
    causal:  each position sees itself and what is before it; not together with a mask.
    returns: (batch, length of q, heads·width).
    """
    q, k, v = (part.view(*part.shape[:2], heads, -1).transpose(1, 2) for part in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return out.transpose(1, 2).flatten(2)


def attention_pytorch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: Any = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **kwargs: Any,
) -> Tensor:
    """The same in the form that packs call and replace; computed in the dtype of q.

    q, k, v: (batch, length, heads·width), with skip_reshape heads apart. mask: (L, L'), (batch, L, L')
    or (batch, heads, L, L'). returns: (batch, length, heads·width), with skip_output_reshape heads apart.
    """
    del attn_precision, kwargs
    if not skip_reshape:
        q, k, v = (part.view(*part.shape[:2], heads, -1).transpose(1, 2) for part in (q, k, v))
    if mask is not None:
        mask = mask[None] if mask.ndim == 2 else mask
        mask = mask[:, None] if mask.ndim == 3 else mask
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


def wrap_attn(func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An attention function that `transformer_options["optimized_attention_override"]` may take the place of."""

    @wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Tensor:
        options = kwargs.get("transformer_options")
        override = None if options is None else options.get("optimized_attention_override")
        return func(*args, **kwargs) if override is None else override(func, *args, **kwargs)

    return wrapped


optimized_attention = wrap_attn(attention_pytorch)
"""The attention of every UNet. It is called through this module, so that packs can replace it."""
