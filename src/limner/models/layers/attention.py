"""Scaled dot-product attention over packed heads. Vaswani et al. 2017, "Attention is all you need"."""

from __future__ import annotations

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
