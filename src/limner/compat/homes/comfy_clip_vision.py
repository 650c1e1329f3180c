"""comfy.clip_vision: vision encoders, how pictures are prepared for them, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from limner.compat.homes._services import memory
from limner.compat.homes.not_yet import missing
from limner.compat.homes.stands_for import StandsFor
from limner.models import load_vision
from limner.models.clip_vision import ClipVision, Output
from limner.models.convert import clip_vision
from limner.models.vision.preprocess import preprocess as clip_preprocess
from limner.models.vision.transformer import VisionTransformer
from limner.weights import CheckpointHeader

__all__ = ["IMAGE_ENCODERS", "ClipVisionModel", "Output", "clip_preprocess"]

IMAGE_ENCODERS: dict[str, Any] = {
    "clip_vision_model": VisionTransformer,
    "siglip_vision_model": VisionTransformer,
}


class ClipVisionModel(ClipVision, metaclass=StandsFor):
    """A vision encoder; those that nodes hand on are instances."""

    recognises = staticmethod(lambda instance: isinstance(instance, ClipVision))

    def __init__(self, json_config: Any) -> None:
        raise missing(f"ClipVisionModel({json_config})", "config")


def load(ckpt_path: Any) -> ClipVision:
    """The vision encoder of a file. Raises BadInput when it is none that is known."""
    return load_vision.load_clip_vision(ckpt_path, memory())


def load_clipvision_from_sd(
    sd: Mapping[str, Tensor], prefix: str = "", convert_keys: bool = False
) -> ClipVision | None:
    """The vision encoder of tensors whose names begin with `prefix`, in any layout; None where there is none."""
    del convert_keys
    return load_vision.clip_vision_in_checkpoint(CheckpointHeader.of(sd), prefix, memory())


def convert_to_transformers(sd: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The encoder's tensors under `prefix`, in transformers' names."""
    part = clip_vision(CheckpointHeader.of(sd).select(prefix))
    return {name: part.tensor(name) for name in part}
