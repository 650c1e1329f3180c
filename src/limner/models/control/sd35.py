"""ControlNets of Stable Diffusion 3.5 large by Stability AI: blur, canny and depth.

Blocks of one stream over the patches, without a text. The patches are made by the model that is sampled, with its own
embedding and positions. The original names; the diffusers library's are converted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from limner.errors import BadInput
from limner.models.control.base import Residuals, told
from limner.models.control.kind import ControlKind, Hint, Layout
from limner.models.control.network import ControlNet
from limner.models.control.sd3 import LATENT, padded
from limner.models.family import Overrides, has, lacks
from limner.models.layers import attention
from limner.models.layers.shapes import count, shape
from limner.models.sd3 import (
    HEAD_WIDTH,
    DismantledBlock,
    MMDiT,
    MMDiTConfig,
    PatchEmbed,
    TimestepEmbedder,
    VectorEmbedder,
    diffusers_names,
)
from limner.weights import CheckpointHeader
from limner.weights.ops import Linear
from limner.weights.targets import Part, Target, renamed

CANNY = 1
"""The `control_type` of a file whose hint is scaled as it was in training."""


@dataclass(frozen=True)
class ControlSD35Config:
    """mmdit: the dimensions of the blocks. kind: 0 blur, 1 canny, 2 depth; None where the file does not say."""

    mmdit: MMDiTConfig
    kind: int | None = None


def infer_config(header: CheckpointHeader, said: Overrides) -> ControlSD35Config:
    """The dimensions from the tensors. said: `num_heads`; by rule a head is 64 wide."""
    shapes = header.shapes()
    width, channels, patch, _ = shape(shapes, "pos_embed_input.proj.weight", 4)
    mmdit = MMDiTConfig(
        in_channels=channels,
        out_channels=channels,
        patch_size=patch,
        hidden_size=width,
        depth=count(shapes, "transformer_blocks.{}."),
        num_heads=int(said.get("num_heads") or max(1, width // HEAD_WIDTH)),
        mlp_width=shape(shapes, "transformer_blocks.0.mlp.fc1.weight", 2)[0],
        adm_in_channels=shape(shapes, "y_embedder.mlp.0.weight", 2)[1],
    )
    kind = said.get("control_type")
    if kind is None and "control_type" in header:
        kind = int(header.tensor("control_type").item())
    return ControlSD35Config(mmdit, kind)


class ControlSD35(nn.Module):
    """Residuals for the patches of an MMDiT after its blocks, of these patches, a time and the latent of a hint."""

    def __init__(self, config: ControlSD35Config) -> None:
        super().__init__()
        mmdit = config.mmdit
        self.config = config
        self.t_embedder = TimestepEmbedder(mmdit.hidden_size)
        self.y_embedder = VectorEmbedder(mmdit.adm_in_channels, mmdit.hidden_size)
        self.transformer_blocks = nn.ModuleList(DismantledBlock(mmdit) for _ in range(mmdit.depth))
        self.controlnet_blocks = nn.ModuleList(Linear(mmdit.hidden_size, mmdit.hidden_size) for _ in range(mmdit.depth))
        self.pos_embed_input = PatchEmbed(mmdit)

    def forward(
        self, x: Tensor, hint: Tensor, timesteps: Tensor, context: Tensor | None = None, y: Tensor | None = None,
        *, embed: Callable[[Tensor], Tensor], **_: Any,
    ) -> Residuals:  # fmt: skip
        """What is added after the blocks, in x's dtype.

        x, hint: (B, C, H, W), a latent and that of the hint. timesteps: (B,), 0 … 1000. y: (B, adm_in_channels).
        embed:   the sampled model's embedding: a padded latent → patches (B, N, D) in their places.
        returns: "output": (B, N, D) for each block of this network.
        """
        del context
        mmdit = self.config.mmdit
        y = told(y, "vector", mmdit.adm_in_channels).to(x.dtype)
        tokens = told(embed(padded(x, mmdit.patch_size)), "patch", mmdit.hidden_size).to(x.dtype)
        tokens = tokens + self.pos_embed_input(padded(hint, mmdit.patch_size))
        c = self.t_embedder(timesteps, x.dtype) + self.y_embedder(y)
        residuals: list[Tensor | None] = []
        for block, layer in zip(self.transformer_blocks, self.controlnet_blocks, strict=True):
            tokens = alone(block, tokens, c)
            residuals.append(layer(tokens))
        return {"output": residuals}


def alone(block: Any, tokens: Tensor, c: Tensor) -> Tensor:
    """One stream's block with attention over that stream only, written over tokens."""
    modulation = block.modulation(c)
    q, k, v = block.pre_attention(tokens, modulation)
    attended = attention.optimized_attention(q, k, v, block.attn.num_heads)
    del q, k, v
    return block.feed_forward(block.post_attention(tokens, attended, modulation), modulation)


class ControlNetSD35(ControlNet):
    """A control that needs the embedding of the model that is sampled."""

    base: Any = None

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        """A run of `model` begins. Raises BadInput when the model is of another family."""
        super().pre_run(model, percent_to_timestep_function)
        self.base = model

    def cleanup(self) -> None:
        """The run has ended."""
        self.base = None
        super().cleanup()

    def compute(self, x_noisy: Tensor, t: Tensor, cond: Mapping[str, Any], hint: Tensor) -> Residuals:
        """The network's answer, at full strength."""
        own = self.extra_args
        self.extra_args = {**own, "embed": self._embed}
        try:
            return super().compute(x_noisy, t, cond, hint)
        finally:
            self.extra_args = own

    def _embed(self, x: Tensor) -> Tensor:
        network = getattr(self.base, "diffusion_model", None)
        if not isinstance(network, MMDiT):
            raise BadInput(
                "This ControlNet takes its patches from a Stable Diffusion 3.5 model, and the model is none.",
                do="Use it with Stable Diffusion 3.5 large.",
            )
        patch = network.config.patch_size
        tokens = network.x_embedder(x)
        return tokens + network.positions(x.shape[-2] // patch, x.shape[-1] // patch).to(x)


def canny(picture: Tensor) -> Tensor:
    """What the autoencoder is shown of edges: 127.5 a + 0.5 after it has made 2 a - 1 of its input."""
    return picture * 63.75 + 0.75


def from_diffusers(header: CheckpointHeader) -> CheckpointHeader:
    """The diffusers library's names under the original ones: those of the patches' half of a block."""
    shapes = header.shapes()
    width = shape(shapes, "pos_embed_input.proj.weight", 4)[0]
    depth = count(shapes, "transformer_blocks.{}.")

    def ours(target: Target) -> Target:
        name = target if isinstance(target, str) else target.name
        name = name.replace("joint_blocks.", "transformer_blocks.").replace(".x_block.", ".")
        return name if isinstance(target, str) else Part(name, target.start, target.length, target.swapped)

    return renamed(header, {theirs: ours(target) for theirs, target in diffusers_names(width, depth + 1).items()})


def hint(config: ControlSD35Config) -> Hint:
    """A latent; edges are scaled before they are encoded."""
    return Hint(ratio=1, latent=LATENT, prepare=canny) if config.kind == CANNY else Hint(ratio=1, latent=LATENT)


CONTROL = ControlKind(
    name="control-mmdit-large",
    title="ControlNet of Stable Diffusion 3.5 large",
    layouts=(
        Layout((has("controlnet_blocks.0.weight"), has("pos_embed_input.proj.weight"),
                has("transformer_blocks.0.adaLN_modulation.1.bias"), has("transformer_blocks.0.attn.qkv.weight"))),
        Layout((has("controlnet_blocks.0.weight"), has("pos_embed_input.proj.weight"),
                has("transformer_blocks.0.norm1.linear.weight"), lacks("context_embedder.weight"),
                lacks("pos_embed.proj.weight")),
               from_diffusers),
    ),
    infer_config=infer_config,
    network=ControlSD35,
    hint=hint,
    residuals=lambda config: config.mmdit.depth * config.mmdit.hidden_size / config.mmdit.patch_size**2,
    control=ControlNetSD35,
)  # fmt: skip
