"""Rotary embedding: places are told by turning pairs of features. Su et al. 2021, "RoFormer", section 3.2.2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from limner.models.layers.lifetimes import rotate as _turn


def rotation(ids: Tensor, axes: Sequence[int], theta: float = 10000.0) -> Tensor:
    """The matrices by which pairs of features are turned: (B, 1, S, head / 2, 2, 2), float32; made in float64.

    ids: (B, S, axes), the place of each token on each axis. axes: how many features of a head tell each axis, even
    numbers; their sum is the width of a head.
    """
    angles = []
    for place, width in zip(ids.double().unbind(-1), axes, strict=True):
        steps = torch.arange(0, width, 2, dtype=torch.float64, device=ids.device) / width
        angles.append(place[..., None] * theta**-steps)
    whole = torch.cat(angles, dim=-1)
    cos, sin = whole.cos().float(), whole.sin().float()
    # column by column, so that the first column of each, which `rotate` reads, lies together
    return torch.stack((cos, sin, -sin, cos), dim=-1).view(*cos.shape, 2, 2).transpose(-1, -2)[:, None]


def rotate(x: Tensor, matrices: Tensor) -> Tensor:
    """Pairs of features (2i, 2i + 1) turned, written over x, which must be the caller's own.

    x: (B, S, heads, head). matrices: of `rotation`, (B or 1, 1, S, head / 2, 2, 2).
    """
    column = matrices[:, 0, :, None, :, :, 0]
    return _turn(x, column if column.stride(-1) == 1 else column.contiguous())


def grid_ids(
    rows: int,
    columns: int,
    options: Mapping[str, float],
    *,
    index: float = 0.0,
    top: float = 0.0,
    left: float = 0.0,
    device: torch.device | None = None,
) -> Tensor:
    """Index, row and column of each patch of a picture: (1, rows · columns, 3), float32.

    index: the first axis, the same for all. top, left: where rows and columns begin. options: `rope_options`: there
    are as many places as patches, but the last is (length - 1) · scale from the first (`scale_x`, `scale_y`), and all
    are moved by `shift_t` (the index), `shift_y` and `shift_x`.
    """
    sides = []
    for number, letter, start in ((rows, "y", top), (columns, "x", left)):
        first = start + options.get(f"shift_{letter}", 0.0)
        last = first + (number - 1) * options.get(f"scale_{letter}", 1.0)
        sides.append(torch.linspace(first, last, number, dtype=torch.float32, device=device))
    row, column = torch.meshgrid(*sides, indexing="ij")
    indices = torch.full_like(row, index + options.get("shift_t", 0.0))
    return torch.stack((indices, row, column), dim=-1).flatten(0, 1)[None]
