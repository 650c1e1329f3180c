"""comfy.ldm.modules.diffusionmodules.openaimodel: the UNet and its layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from limner.models.unet import Block, Downsample, ResBlock, UNet, Upsample, apply_control
from limner.models.unet import timestep_embedding as _sines

__all__ = ["Downsample", "ResBlock", "Upsample", "apply_control"]

UNetModel = UNet
TimestepEmbedSequential = Block
TimestepBlock = ResBlock


def forward_timestep_embed(
    ts: Any,
    x: Tensor,
    emb: Tensor,
    context: Tensor | None = None,
    transformer_options: Any = None,
    output_shape: Any = None,
    time_context: Any = None,
    num_video_frames: Any = None,
    image_only_indicator: Any = None,
) -> Tensor:
    """The layers of one place of a UNet, each given what it takes."""
    del time_context, num_video_frames, image_only_indicator
    size = None if output_shape is None else (int(output_shape[2]), int(output_shape[3]))
    found: Tensor = Block.run(ts, x, emb, context, transformer_options, size)
    return found


class Timestep(nn.Module):
    """Sines and cosines of a time. dim: how many."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, t: Tensor) -> Tensor:
        """t: (B,) → (B, dim)."""
        return _sines(t, self.dim)


DTYPE = torch.float32
