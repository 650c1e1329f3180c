"""Masks over text and patches together."""

from __future__ import annotations

import torch
from torch import Tensor


def resized_mask(mask: Tensor, size: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """A mask (B, S, S) of text and size[0] · size[1] patches, for wanted[0] · wanted[1]: the nearest patch's."""
    text = mask.shape[-1] - size[0] * size[1]
    row, column = (
        ((torch.arange(new, device=mask.device) + 0.5) * (old / new)).long()
        for old, new in zip(size, wanted, strict=True)
    )
    patches = (row[:, None] * size[1] + column).flatten() + text
    places = torch.cat((torch.arange(text, device=mask.device), patches))
    return mask[:, places][:, :, places]
