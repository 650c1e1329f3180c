"""The residual block of OpenAI's CLIP under its own names: small adapters are made of it. Radford et al. 2021."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.models.layers import attention
from limner.weights.ops import LayerNorm, Linear, cast


class SelfAttention(nn.Module):
    """Attention with one projection to queries, keys and values, named as torch's MultiheadAttention has it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, width) → the same shape."""
        weight, bias = cast(self.in_proj_weight, x), cast(self.in_proj_bias, x)
        q, k, v = F.linear(x, weight, bias).chunk(3, dim=-1)  # type: ignore[arg-type]
        return self.out_proj(attention.optimized_attention(q, k, v, self.heads))


class QuickMLP(nn.Module):
    """To four times the width and back, with x · σ(1.702 x) between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = Linear(width, 4 * width)
        self.c_proj = Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, width) → the same shape."""
        x = self.c_fc(x)
        return self.c_proj(x * torch.sigmoid(1.702 * x))


class ResidualAttention(nn.Module):
    """Self-attention and feed-forward, each normalised before and added after."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads)
        self.ln_1 = LayerNorm(width)
        self.mlp = QuickMLP(width)
        self.ln_2 = LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, width) → the same shape."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))
