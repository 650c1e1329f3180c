"""comfy.clip_vision: vision models, which are not supported yet, and what surrounds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.compat.homes.not_yet import missing, placeholder

ClipVisionModel = placeholder("ClipVisionModel", "clip_vision")
IMAGE_ENCODERS: dict[str, Any] = {}


class Output:
    """What a vision model says of a picture, as attributes and by name."""

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def __setitem__(self, key: str, item: Any) -> None:
        setattr(self, key, item)


def clip_preprocess(
    image: Tensor,
    size: int = 224,
    mean: Sequence[float] = (0.48145466, 0.4578275, 0.40821073),
    std: Sequence[float] = (0.26862954, 0.26130258, 0.27577711),
    crop: bool = True,
) -> Tensor:
    """Pictures (B, H, W, C) in 0..1 as a vision model takes them: (B, 3, size, size), normalised.

    crop: scaled to cover the square and cut about the centre; else distorted.
    """
    picture = image[..., :3].movedim(-1, 1)
    if picture.shape[2:] != (size, size):
        if crop:
            scale = size / min(picture.shape[2], picture.shape[3])
            shape = (round(scale * picture.shape[2]), round(scale * picture.shape[3]))
        else:
            shape = (size, size)
        picture = F.interpolate(picture, size=shape, mode="bicubic", antialias=True)
        top, left = (picture.shape[2] - size) // 2, (picture.shape[3] - size) // 2
        picture = picture[:, :, top : top + size, left : left + size]
    picture = (255.0 * picture).clamp(0, 255).round() / 255.0
    centre, spread = (torch.tensor(values).type_as(picture).view(3, 1, 1) for values in (mean, std))
    return (picture - centre) / spread


def load(ckpt_path: Any) -> Any:
    """A vision model of a file. Raises LimnerError: not supported yet."""
    raise missing(f"clip_vision.load({ckpt_path})", "clip_vision")


def load_clipvision_from_sd(sd: Any, prefix: str = "", convert_keys: bool = False) -> Any:
    """A vision model of tensors. Raises LimnerError: not supported yet."""
    del sd, prefix, convert_keys
    raise missing("load_clipvision_from_sd", "clip_vision")


def convert_to_transformers(sd: Any, prefix: str) -> Any:
    """Names as transformers has them. Raises LimnerError: not supported yet."""
    del sd, prefix
    raise missing("convert_to_transformers", "clip_vision")
