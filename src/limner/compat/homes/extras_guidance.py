"""Functions of comfy_extras around self-attention guidance."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.sampling.guidance_variants import blurred


def gaussian_blur_2d(img: Tensor, kernel_size: int, sigma: float) -> Tensor:
    """A Gaussian blur of (B, C, H, W) with mirrored edges; kernel_size is odd, sigma in cells."""
    return blurred(img, sigma, kernel_size)


def create_blur_map(x0: Tensor, attn: Tensor, sigma: float = 3.0, threshold: float = 1.0) -> Tensor:
    """x0 (B, C, H, W) blurred where it is looked at more than `threshold`. attn: (B·heads, cells, cells), softmaxed."""
    batch, _, height, width = x0.shape
    cells = attn.shape[-1]
    looks = attn.reshape(batch, -1, *attn.shape[-2:]).mean(1).sum(1) > threshold
    rows = closest_rows(cells, height, width)
    mask = F.interpolate(looks.to(attn.dtype).reshape(batch, 1, rows, cells // rows), (height, width))
    return blurred(x0, sigma) * mask + x0 * (1 - mask)


def closest_rows(cells: int, height: int, width: int) -> int:
    """How many rows `cells` have in a grid whose sides are in a ratio closest to height by width."""
    divisors = [rows for rows in range(1, cells + 1) if cells % rows == 0]
    return min(divisors, key=lambda rows: abs(math.log(rows * rows / cells) - math.log(height / width)))


def attention_basic_with_sim(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, attn_precision: Any = None
) -> tuple[Tensor, Tensor]:
    """Attention (B, L, heads·width), and how much each place looks at each: (B·heads, L, L)."""
    queries, keys, values = (part.view(*part.shape[:2], heads, -1).transpose(1, 2).flatten(0, 1) for part in (q, k, v))
    if attn_precision == torch.float32:
        queries, keys = queries.float(), keys.float()
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    if mask is not None:
        hidden = ~mask.reshape(mask.shape[0], 1, -1).repeat_interleave(heads, 0).bool()
        scores = scores.masked_fill(hidden, -torch.finfo(scores.dtype).max)
    looks = scores.softmax(-1)
    out = (looks.to(values.dtype) @ values).reshape(q.shape[0], heads, q.shape[1], -1)
    return out.transpose(1, 2).flatten(2), looks
