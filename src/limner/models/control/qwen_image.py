"""ControlNets of Qwen-Image by InstantX: union and inpainting.

The first blocks of the model, shown the latent of a hint beside its own. Each residual serves several blocks of the
model in a row. Names are those of the diffusers library, which are the model's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.models.control.base import Residuals, told
from limner.models.control.kind import ControlKind, Hint, Layout
from limner.models.family import Overrides, has
from limner.models.layers.hooks import Hooks
from limner.models.layers.shapes import agree, shape
from limner.models.qwen_image import (
    PATCH,
    QwenImageConfig,
    QwenImageTransformer2DModel,
    patched,
    rotation_of,
    text_places,
)
from limner.sampling.latent_formats import FORMATS
from limner.weights import CheckpointHeader
from limner.weights.lazy import LazyTensor
from limner.weights.ops import Linear

LATENT = FORMATS["Wan21"]
BLOCKS = 60
"""Blocks of the model."""


@dataclass(frozen=True)
class ControlQwenImageConfig:
    """model: of the blocks. hint_channels: of the latent of the hint, and of a mask where there is one."""

    model: QwenImageConfig
    hint_channels: int = 16


def infer_config(header: CheckpointHeader, said: Overrides) -> ControlQwenImageConfig:
    """The dimensions from the tensors; `said` is the file's config (see `QwenImageConfig`)."""
    width, channels = shape(header.shapes(), "img_in.weight", 2)
    end = LazyTensor.of(torch.empty(channels, width, device="meta"))
    whole = replace(header, tensors={**header.tensors, "proj_out.weight": end})
    shown = shape(header.shapes(), "controlnet_x_embedder.weight", 2)[1]
    agree(said, "extra_condition_channels", shown - channels)
    return ControlQwenImageConfig(QwenImageConfig.from_header(whole, said), shown // PATCH**2)


class ControlQwenImage(QwenImageTransformer2DModel):
    """Residuals for the patches after each block, of a latent, a time, a text and the latent of a hint."""

    def __init__(self, config: ControlQwenImageConfig) -> None:
        super().__init__(config.model)
        del self.norm_out, self.proj_out
        width, depth = config.model.width, config.model.num_layers
        self.hint_channels = config.hint_channels
        self.controlnet_blocks = nn.ModuleList(Linear(width, width) for _ in range(depth))
        self.controlnet_x_embedder = Linear(PATCH**2 * config.hint_channels, width)

    def forward(  # type: ignore[override]
        self, x: Tensor, hint: Tensor, timesteps: Tensor, context: Tensor, attention_mask: Tensor | None = None,
        transformer_options: Mapping[str, Any] | None = None, **_: Any,
    ) -> Residuals:  # fmt: skip
        """What is added after the model's blocks, in x's dtype.

        x:         (B, C, T, H, W) or (B, C, H, W). hint: like x, (B or 1, hint channels, …), of a latent, and a mask.
        timesteps: (B,), 0 … 1. context: (B, L, joint_attention_dim), the text; attention_mask: (B, L) or None.
        returns:   "input": (B, N, D) for each block of the model.

        Odd sides are continued from the other edge. Places are float32 and the rotation of text and patches is made
        as the model's own, so both are told the same places.
        """
        context = told(context, "text", self.config.joint_attention_dim)
        hooks = Hooks(transformer_options)
        frames = x if x.ndim == 5 else x.unsqueeze(2)
        image, places, grid = self.process_pictures(frames, (), None, hooks)
        shown, _grid = patched(hint if hint.ndim == 5 else hint.unsqueeze(2))
        image = self.img_in(image) + self.controlnet_x_embedder(shown.to(x.dtype))
        text = self.txt_in(self.txt_norm(context.to(x.dtype)))
        start = max(grid[1:]) // 2
        rotation = rotation_of(
            torch.cat((text_places(text.shape[1], start, x.device), places)), self.config.axes_dims_rope
        )
        mask = None if attention_mask is None else F.pad(attention_mask.bool(), (0, image.shape[1]), value=True)
        mask = None if mask is None else mask[:, None, None]
        temb = self.time_text_embed(timesteps, x.dtype)
        residuals: list[Tensor | None] = []
        blocks: Iterable[Any] = self.transformer_blocks
        for block, layer in zip(blocks, self.controlnet_blocks, strict=True):
            text, image = block.over(image, text, mask, temb, rotation, hooks)
            residuals.append(layer(image))
        repeats = math.ceil(BLOCKS / len(residuals))
        return {"input": [residual for residual in residuals for _ in range(repeats)][:BLOCKS]}


def hint(config: ControlQwenImageConfig) -> Hint:
    """A latent, and a mask where there is one more channel."""
    return Hint(ratio=1, latent=LATENT, mask=config.hint_channels == config.model.in_channels // PATCH**2 + 1)


CONTROL = ControlKind(
    name="control-qwen",
    title="ControlNet of Qwen-Image",
    layouts=(
        Layout((has("controlnet_blocks.0.weight"), has("controlnet_x_embedder.weight"), has("txt_norm.weight"),
                has("transformer_blocks.0.img_mlp.net.0.proj.weight"))),
    ),
    infer_config=infer_config,
    network=ControlQwenImage,
    hint=hint,
    residuals=lambda config: config.model.num_layers * config.model.width / PATCH**2,
    extra_conds=("attention_mask",),
    dtypes=(torch.bfloat16, torch.float32),
)  # fmt: skip
