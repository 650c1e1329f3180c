"""The vector that some UNets are told beside time and text: sizes, crops and scores as sines, after the pooled text.

Source: Podell et al. 2023, section 2.2 (SDXL and its refiner); Blattmann et al. 2023, appendix D (video). The name is
the checkpoints' own (`adm_in_channels`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from limner.models.unet import timestep_embedding

WIDTH = 256
"""Sines and cosines of one number."""
FALLBACK_SIZE = 768
"""Pixels of a side that nobody says."""


def sines(numbers: Sequence[float]) -> Tensor:
    """Each number embedded as a time is, one after the other: (1, 256 · count), float32."""
    return timestep_embedding(torch.tensor([float(number) for number in numbers]), WIDTH).flatten()[None]


def sdxl_vector(
    pooled: Tensor,
    *,
    width: int = FALLBACK_SIZE,
    height: int = FALLBACK_SIZE,
    crop_w: int = 0,
    crop_h: int = 0,
    target_width: int | None = None,
    target_height: int | None = None,
) -> Tensor:
    """SDXL's: (B, P + 1536). pooled: (B, P). Sizes and crops in pixels; the target is the size where it is not said."""
    target = (height if target_height is None else target_height, width if target_width is None else target_width)
    return _after(pooled, (height, width, crop_h, crop_w, *target))


def refiner_vector(
    pooled: Tensor,
    *,
    width: int = FALLBACK_SIZE,
    height: int = FALLBACK_SIZE,
    crop_w: int = 0,
    crop_h: int = 0,
    aesthetic_score: float | None = None,
    prompt_type: str = "",
) -> Tensor:
    """The SDXL refiner's: (B, P + 1280). pooled: (B, P). The score is 6, for a negative prompt 2.5, if not said."""
    if aesthetic_score is None:
        aesthetic_score = 2.5 if prompt_type == "negative" else 6.0
    return _after(pooled, (height, width, crop_h, crop_w, aesthetic_score))


def video_vector(*, fps: float = 6, motion_bucket_id: float = 127, augmentation_level: float = 0.0) -> Tensor:
    """Stable Video Diffusion's: (1, 768). It was trained with the frame rate less one."""
    return sines((fps - 1, motion_bucket_id, augmentation_level))


def _after(pooled: Tensor, numbers: Sequence[float]) -> Tensor:
    embedded = sines(numbers).to(pooled)
    return torch.cat((pooled, embedded.expand(len(pooled), -1)), dim=1)
