"""comfy.ldm.flux.math: rotary positions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from limner.compat.homes.comfy_float import rms_norm
from limner.models.layers import attention as core

__all__ = ["rms_norm"]


def rope(pos: Tensor, dim: int, theta: float) -> Tensor:
    """Rotations of positions (B, L): (B, L, dim / 2, 2, 2), float32.  Su et al. 2021."""
    scale = torch.arange(0, dim, 2, dtype=torch.float64, device=pos.device) / dim
    angles = pos.double()[..., None] * (1.0 / theta**scale)
    turned = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], dim=-1)
    return turned.reshape(*turned.shape[:-1], 2, 2).float()


def apply_rope1(x: Tensor, freqs_cis: Tensor) -> Tensor:
    """Pairs of channels turned. x: (…, D), freqs_cis: (…, D / 2, 2, 2)."""
    pairs = x.to(freqs_cis.dtype).reshape(*x.shape[:-1], -1, 1, 2)
    turned = freqs_cis[..., 0] * pairs[..., 0] + freqs_cis[..., 1] * pairs[..., 1]
    return turned.reshape(*x.shape).type_as(x)


def apply_rope(xq: Tensor, xk: Tensor, freqs_cis: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys turned."""
    return apply_rope1(xq, freqs_cis), apply_rope1(xk, freqs_cis)


def attention(
    q: Tensor, k: Tensor, v: Tensor, pe: Tensor, mask: Tensor | None = None, transformer_options: Any = None
) -> Tensor:
    """Attention of (B, heads, L, D) with turned queries and keys: (B, L, heads · D)."""
    if pe is not None:
        q, k = apply_rope(q, k, pe)
    return core.optimized_attention(
        q, k, v, q.shape[1], mask=mask, skip_reshape=True, transformer_options=transformer_options
    )


def flux_timestep_embedding(t: Tensor, dim: int, max_period: float = 10000, time_factor: float = 1000.0) -> Tensor:
    """Cosines, then sines, of times in 0..1, in the dtype of t."""
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = (time_factor * t)[:, None].float() * torch.exp(-math.log(max_period) * steps / half)[None]
    found = torch.cat([angles.cos(), angles.sin()], dim=-1)
    if dim % 2:
        found = torch.cat([found, torch.zeros_like(found[:, :1])], dim=-1)
    return found.to(t) if torch.is_floating_point(t) else found
