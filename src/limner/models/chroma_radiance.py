"""Chroma Radiance: Chroma in pixels, without an autoencoder. Lodestone Rock 2025, model card of Chroma1-Radiance.

The picture is cut into patches of 16×16 pixels, and Chroma's blocks say of each patch what is to be in it. Its pixels
are then made by a neural field: a small network that maps each pixel, with its place inside the patch, to its colour,
and whose weights are generated for each patch from what the blocks said. Source: Wang et al. 2025, "PixNerd: Pixel
neural field diffusion", sections 3.2 and 3.3.

Shape letters: B batch, H and W height and width in pixels, N patches, P pixels of a patch, K width of the field,
D width of the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.models.chroma import FAMILY as CHROMA
from limner.models.chroma import GUIDER, Chroma, ChromaConfig
from limner.models.family import Overrides, has, lacks
from limner.models.flux import FluxConfig
from limner.models.layers.hooks import Hooks
from limner.models.layers.rope import grid_ids
from limner.models.layers.shapes import Shapes, count, shape
from limner.models.layers.streams import RMSNorm
from limner.sampling.latent_formats import FORMATS
from limner.weights.ops import Conv2d, Linear

TILE = 512
"""Patches whose pixels are made at once, where nothing else is said: more take more memory and are hardly faster."""
FREQUENCIES = 8


@dataclass(frozen=True)
class RadianceConfig(ChromaConfig):
    """Chroma's dimensions, and those of the neural field. The defaults are Chroma1-Radiance's."""

    in_channels: int = 3
    out_channels: int = 3
    patch_size: int = 16
    nerf_hidden_size: int = 64
    nerf_mlp_ratio: int = 4
    nerf_depth: int = 4
    nerf_max_freqs: int = FREQUENCIES
    nerf_conv: bool = True  # whether the last layer looks at neighbouring pixels

    @classmethod
    def from_state(cls, shapes: Shapes, overrides: Overrides) -> RadianceConfig:
        """Read the dimensions off the tensors of a bare network; overrides as of `FluxConfig`."""
        width, channels, patch, _ = shape(shapes, "img_in_patch.weight", 4)
        # what Flux reads off its first and last layer stands here in others
        known = {**shapes, "img_in.weight": (width, channels), "final_layer.linear.weight": (channels, width)}
        said = {**overrides, "patch_size": 1}
        chroma = ChromaConfig.from_state(known, {name: value for name, value in said.items() if "channels" not in name})
        field, given = shape(shapes, "nerf_image_embedder.embedder.0.weight", 2)
        generated = shape(shapes, "nerf_blocks.0.param_generator.weight", 2)[0]
        return cls(
            **{
                **asdict(chroma),
                "patch_size": patch,
                "nerf_hidden_size": field,
                "nerf_mlp_ratio": generated // (3 * field**2),
                "nerf_depth": count(shapes, "nerf_blocks.{}."),
                "nerf_max_freqs": math.isqrt(given - channels),
                "nerf_conv": "nerf_final_layer_conv.norm.scale" in shapes,
            }
        )


class NerfEmbedder(nn.Module):
    """Pixels with their places inside a patch, as products of cosines."""

    def __init__(self, in_channels: int, hidden_size: int, max_freqs: int) -> None:
        super().__init__()
        self.max_freqs = max_freqs
        self.embedder = nn.Sequential(Linear(in_channels + max_freqs**2, hidden_size))

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (B·N, P, channels), row by row → (B·N, P, K)."""
        places = self.places(math.isqrt(pixels.shape[1]), pixels.device).to(pixels.dtype)
        return self.embedder(torch.cat((pixels, places.expand(len(pixels), -1, -1)), dim=-1))

    def places(self, side: int, device: torch.device) -> Tensor:
        """cos(π · row · i) · cos(π · column · j) / (1 + i · j), rows and columns from 0 to 1: (1, P, frequencies²).

        Frequencies i of rows change slowest. The paper does not say which change slowest, and no published result was
        at hand to hold it against.
        """
        place = torch.linspace(0, 1, side, device=device)
        frequency = torch.arange(self.max_freqs, dtype=torch.float32, device=device)
        waves = torch.cos(math.pi * place[:, None] * frequency)
        damping = 1 / (1 + frequency[:, None] * frequency)
        both = waves[:, None, :, None] * waves[None, :, None, :] * damping
        return both.flatten(2).flatten(0, 1)[None]


class NerfGLUBlock(nn.Module):
    """A gated layer of the field, its weights made for each patch."""

    def __init__(self, hidden_size_s: int, hidden_size_x: int, mlp_ratio: int) -> None:
        super().__init__()
        self.hidden_size_x, self.mlp_ratio = hidden_size_x, mlp_ratio
        self.param_generator = Linear(hidden_size_s, 3 * hidden_size_x**2 * mlp_ratio)
        self.norm = RMSNorm(hidden_size_x)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """x: (B·N, P, K), s: (B·N, D), what the blocks say of the patch → like x."""
        width, inner = self.hidden_size_x, self.hidden_size_x * self.mlp_ratio
        gate, value, out = self.param_generator(s).chunk(3, dim=-1)
        gate, value = (F.normalize(one.view(len(s), width, inner), dim=-2) for one in (gate, value))
        out = F.normalize(out.view(len(s), inner, width), dim=-2)
        shown = self.norm(x)
        return torch.bmm(F.silu(torch.bmm(shown, gate)) * torch.bmm(shown, value), out) + x


class NerfFinalLayer(nn.Module):
    """The field's features to colours, pixel by pixel."""

    def __init__(self, hidden_size: int, out_channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(hidden_size)
        self.linear = Linear(hidden_size, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """features: (B, K, H, W) → (B, out, H, W)."""
        return self.linear(self.norm(features.movedim(1, -1))).movedim(-1, 1)


class NerfFinalLayerConv(nn.Module):
    """The field's features to colours, each pixel with its neighbours, so that patches meet without a seam."""

    def __init__(self, hidden_size: int, out_channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(hidden_size)
        self.conv = Conv2d(hidden_size, out_channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """features: (B, K, H, W) → (B, out, H, W)."""
        return self.conv(self.norm(features.movedim(1, -1)).movedim(-1, 1))


class ChromaRadiance(Chroma):
    """Chroma over pixels."""

    config: RadianceConfig

    def __init__(self, config: RadianceConfig) -> None:
        super().__init__(config)
        del self.img_in
        width, field = config.hidden_size, config.nerf_hidden_size
        self.img_in_patch = Conv2d(config.in_channels, width, config.patch_size, stride=config.patch_size)
        self.nerf_image_embedder = NerfEmbedder(config.in_channels, field, config.nerf_max_freqs)
        self.nerf_blocks = nn.ModuleList(
            NerfGLUBlock(width, field, config.nerf_mlp_ratio) for _ in range(config.nerf_depth)
        )
        if config.nerf_conv:
            self.nerf_final_layer_conv = NerfFinalLayerConv(field, config.out_channels)
        else:
            self.nerf_final_layer = NerfFinalLayer(field, config.out_channels)

    def _last_layer(self, config: FluxConfig) -> nn.Module:  # noqa: ARG002 - the field makes the pixels
        return nn.Identity()

    def _forward(  # type: ignore[override]
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,  # noqa: ARG002 - Chroma knows no vector of the text
        guidance: Tensor | None = None,
        ref_latents: Any = None,  # noqa: ARG002
        control: Mapping[str, list[Tensor | None]] | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        hooks = Hooks(transformer_options)
        patch, height, width = self.patch_size, x.shape[-2], x.shape[-1]
        shown = F.pad(x, (0, -width % patch, 0, -height % patch), mode="circular")
        grid = self.img_in_patch(shown)
        ids = grid_ids(grid.shape[-2], grid.shape[-1], hooks.get("rope_options") or {}, device=x.device)
        txt_ids = ids.new_zeros(1, context.shape[1], ids.shape[-1])
        patches = grid.flatten(2).transpose(1, 2).contiguous()
        said = self.blocks_over(
            patches, ids, context.to(x.dtype), txt_ids, self.told(timesteps, None, guidance, x.dtype), control, hooks,
            attention_mask, x,
        )  # fmt: skip
        return self.field(shown, said, hooks.get("chroma_radiance_options") or {})[:, :, :height, :width]

    def field(self, x: Tensor, said: Tensor, options: Mapping[str, Any]) -> Tensor:
        """The picture's pixels. x: (B, channels, H, W), said: (B, N, D) → (B, out, H, W).

        options: nerf_tile_size, how many patches at once; 0 for all.
        """
        patch, (batch, _, height, width) = self.patch_size, x.shape
        pixels = F.unfold(x, patch, stride=patch).view(batch, x.shape[1], patch**2, -1)
        pixels = pixels.permute(0, 3, 2, 1).flatten(0, 1)
        said = said.flatten(0, 1)
        tile = int(options.get("nerf_tile_size", TILE)) or len(said)
        features = torch.cat(
            [self._features(*some) for some in zip(torch.split(pixels, tile), torch.split(said, tile), strict=True)]
        )
        columns = features.view(batch, -1, patch**2, features.shape[-1]).permute(0, 3, 2, 1).flatten(1, 2)
        whole = F.fold(columns, (height, width), patch, stride=patch)
        last = self.nerf_final_layer_conv if self.config.nerf_conv else self.nerf_final_layer
        return last(whole)

    def _features(self, pixels: Tensor, said: Tensor) -> Tensor:
        features = self.nerf_image_embedder(pixels)
        for block in self.nerf_blocks:
            features = block(features, said)
        return features


FAMILY = replace(
    CHROMA,
    name="chroma_radiance",
    title="Chroma Radiance",
    marks=(
        has("double_blocks.0.img_attn.norm.key_norm.scale"),
        has("img_in_patch.weight"),
        has("nerf_blocks.0.norm.scale"),
        has("nerf_image_embedder.embedder.0.weight"),
        has(f"{GUIDER}.norms.0.scale"),
        lacks("controlnet_blocks.0.weight"),
    ),
    infer_config=lambda header, overrides: RadianceConfig.from_state(header.shapes(), overrides),
    network=ChromaRadiance,
    latent=FORMATS["ChromaRadiance"],
    legacy=lambda config: {"image_model": "chroma_radiance"},  # noqa: ARG005
    diffusers=None,
    layouts=(),
    memory_factor=0.037,  # measured: benchmarks/memory_formula.py
    memory_text=60.0,
    memory_least=160.0,  # the weights that are generated for a tile of patches
)
