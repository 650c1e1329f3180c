"""Pictures as vision encoders take them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.models.vision.kind import CLIP_MEAN, CLIP_STD


def preprocess(
    image: Tensor,
    size: int = 224,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    crop: bool = True,
) -> Tensor:
    """Pictures (B, H, W, C) in 0..1 as (B, 3, size, size), rounded to the levels of a byte and normalised.

    crop: scaled to cover the square and cut about the centre; else distorted. Enlarged or reduced bicubically, without
    aliasing, as the encoders were trained.
    """
    picture = image[..., :3].movedim(-1, 1)
    if picture.shape[2:] != (size, size):
        shape = (size, size)
        if crop:
            scale = size / min(picture.shape[2:])
            shape = (round(scale * picture.shape[2]), round(scale * picture.shape[3]))
        picture = F.interpolate(picture, size=shape, mode="bicubic", antialias=True)
        top, left = (picture.shape[2] - size) // 2, (picture.shape[3] - size) // 2
        picture = picture[:, :, top : top + size, left : left + size]
    picture = (255.0 * picture).clamp(0, 255).round() / 255.0
    centre, spread = (torch.tensor(values).type_as(picture).view(3, 1, 1) for values in (mean, std))
    return (picture - centre) / spread
