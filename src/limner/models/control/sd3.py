"""ControlNets of Stable Diffusion 3: the first blocks of an MMDiT, shown the latent of a hint beside its own.

Those of InstantX (and of Alimama, for inpainting) are whole: both streams, with positions of their own. They come in
the diffusers library's names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.models.control.base import Residuals, told
from limner.models.control.kind import ControlKind, Hint, Layout
from limner.models.family import Overrides, has
from limner.models.layers.hooks import Hooks
from limner.models.layers.shapes import count, shape
from limner.models.sd3 import JointBlock, MMDiT, MMDiTConfig, PatchEmbed, diffusers_names
from limner.sampling.latent_formats import FORMATS
from limner.weights import CheckpointHeader
from limner.weights.lazy import LazyTensor
from limner.weights.ops import Linear
from limner.weights.targets import renamed

LATENT = FORMATS["SD3"]


@dataclass(frozen=True)
class ControlMMDiTConfig:
    """mmdit: of the blocks. hint_channels: of the latent of the hint, and of a mask where there is one."""

    mmdit: MMDiTConfig
    hint_channels: int = 16


def infer_config(header: CheckpointHeader, said: Overrides) -> ControlMMDiTConfig:
    """The dimensions from the tensors; `said` is the file's config."""
    width, channels, patch, _ = shape(header.shapes(), "x_embedder.proj.weight", 4)
    end = LazyTensor.of(torch.empty(patch**2 * channels, width, device="meta"))
    whole = replace(header, tensors={**header.tensors, "final_layer.linear.weight": end})
    hint_channels = shape(header.shapes(), "pos_embed_input.proj.weight", 4)[1]
    return ControlMMDiTConfig(MMDiTConfig.from_header(whole, said), hint_channels)


class ControlMMDiT(MMDiT):
    """Residuals for the patches of an MMDiT after its blocks, of a latent, a time, a text and the latent of a hint."""

    def __init__(self, config: ControlMMDiTConfig) -> None:
        super().__init__(config.mmdit)
        mmdit = config.mmdit
        del self.final_layer
        self.joint_blocks = nn.ModuleList(
            JointBlock(mmdit, alone=number in mmdit.x_block_self_attn_layers) for number in range(mmdit.depth)
        )
        self.controlnet_blocks = nn.ModuleList(Linear(mmdit.hidden_size, mmdit.hidden_size) for _ in range(mmdit.depth))
        self.pos_embed_input = PatchEmbed(replace(mmdit, in_channels=config.hint_channels))

    def forward(  # type: ignore[override]
        self, x: Tensor, hint: Tensor, timesteps: Tensor, context: Tensor | None = None, y: Tensor | None = None,
        **_: Any,
    ) -> Residuals:  # fmt: skip
        """What is added after the blocks, in x's dtype.

        x:         (B, in_channels, H, W). hint: (B or 1, hint channels, H, W), of a latent, and a mask behind it.
        timesteps: (B,), 0 … 1000. context: (B, L, context_dim), the text. y: (B, adm_in_channels), its vector.
        returns:   "output": (B, N, D) for each block of this network.
        """
        hooks = Hooks(None)
        text, tokens, c = self.streams(x, timesteps, context, y)
        tokens = tokens + self.pos_embed_input(padded(hint, self.config.patch_size))
        residuals: list[Tensor | None] = []
        for number, (block, layer) in enumerate(zip(self.joint_blocks, self.controlnet_blocks, strict=True)):
            text, tokens = self._block(number, block, text, tokens, c, hooks)
            residuals.append(layer(tokens))
        return {"output": residuals}

    def streams(
        self, x: Tensor, timesteps: Tensor, context: Tensor | None, y: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The text, the patches in their places, and what the blocks are modulated by."""
        context = told(context, "text", self.config.context_dim).to(x.dtype)
        y = told(y, "vector", self.config.adm_in_channels).to(x.dtype)
        shown = padded(x, self.config.patch_size)
        rows, columns = (side // self.config.patch_size for side in shown.shape[-2:])
        tokens = self.x_embedder(shown) + self.positions(rows, columns).to(x)
        return self.context_embedder(context), tokens, self.t_embedder(timesteps, x.dtype) + self.y_embedder(y)


def padded(x: Tensor, patch: int) -> Tensor:
    """A latent with sides that are multiples of a patch's, continued from the other edge."""
    return F.pad(x, (0, -x.shape[-1] % patch, 0, -x.shape[-2] % patch), mode="circular")


def from_diffusers(header: CheckpointHeader) -> CheckpointHeader:
    """The diffusers library's names under ours. The last block is like the others, so one more is asked for."""
    shapes = header.shapes()
    width = shape(shapes, "pos_embed_input.proj.weight", 4)[0]
    return renamed(header, diffusers_names(width, count(shapes, "transformer_blocks.{}.") + 1))


def hint(config: ControlMMDiTConfig) -> Hint:
    """A latent, and a mask where there is one more channel."""
    return Hint(ratio=1, latent=LATENT, mask=config.hint_channels == config.mmdit.in_channels + 1)


CONTROL = ControlKind(
    name="control-mmdit",
    title="ControlNet of Stable Diffusion 3",
    layouts=(
        Layout((has("controlnet_blocks.0.weight"), has("pos_embed_input.proj.weight"), has("pos_embed.proj.weight"),
                has("context_embedder.weight"), has("transformer_blocks.0.attn.add_q_proj.weight")),
               from_diffusers),
    ),
    infer_config=infer_config,
    network=ControlMMDiT,
    hint=hint,
    residuals=lambda config: config.mmdit.depth * config.mmdit.hidden_size / config.mmdit.patch_size**2,
)  # fmt: skip
