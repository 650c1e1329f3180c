"""Latents cut into square patches, and put together again."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def patched(x: Tensor, patch: int) -> tuple[Tensor, int, int]:
    """(B, C, H, W) → patches (B, rows · columns, C · patch²), row by row; rows, columns. Odd sides wrap around."""
    batch, channels, height, width = x.shape
    cells = F.pad(x, (0, -width % patch, 0, -height % patch), mode="circular")
    rows, columns = cells.shape[-2] // patch, cells.shape[-1] // patch
    split = cells.view(batch, channels, rows, patch, columns, patch)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1), rows, columns


def unpatched(patches: Tensor, rows: int, columns: int, patch: int) -> Tensor:
    """The inverse: (B, rows · columns, C · patch²) → (B, C, patch · rows, patch · columns)."""
    split = patches.view(len(patches), rows, columns, -1, patch, patch)
    return split.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), -1, rows * patch, columns * patch)
