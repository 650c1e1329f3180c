"""PixArt-α and PixArt-Σ: text to picture by a transformer whose blocks share one modulation. Chen et al. 2023, 2024.

A picture's latent is cut into patches of 2×2 cells; each block attends over the patches, then to the text. The time
(in α also the size and the aspect ratio) is told through six vectors that all blocks share, each block adding its
own constants to them. Attribute names are the keys of the published checkpoints (`blocks.0.attn.qkv.weight` …).

Shape letters: B batch, C latent channels, H and W latent height and width, N patches, L text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput
from limner.models.conditions import standard_conditions
from limner.models.family import DiffusersLayout, Family, LoraNames, Overrides, Prediction, has, lacks
from limner.models.layers import attention
from limner.models.layers.activate import add_to
from limner.models.layers.hooks import Hooks
from limner.models.layers.lifetimes import add_gated, gelu, split_linear
from limner.models.layers.shapes import agree, count, shape
from limner.models.lora_keys import weights_alone
from limner.models.text.encode import EncodeSettings
from limner.models.text.recipe import RowSettings, TextEncoding, TextPart
from limner.models.unet import timestep_embedding
from limner.sampling.latent_formats import FORMATS
from limner.sampling.wrappers import run_network
from limner.weights.header import CheckpointHeader
from limner.weights.ops import Conv2d, LayerNorm, Linear
from limner.weights.targets import Part, Target

if TYPE_CHECKING:
    from limner.models.base import BaseModel

HEAD_WIDTH = 72  # of the published models
SPAN = 32.0  # positions over a side: the patches of 512 pixels, whatever size a model was trained on after that


@dataclass(frozen=True)
class PixArtConfig:
    """The dimensions; the defaults are those of the published models. Names are those of the reference's arguments."""

    in_channels: int = 4
    out_channels: int = 8  # mean and variance; only the mean is used
    patch_size: int = 2
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_width: int = 4608
    caption_channels: int = 4096
    micro_condition: bool = False  # told the size and the aspect ratio (α)
    span: float = SPAN

    @classmethod
    def from_header(cls, header: CheckpointHeader, overrides: Overrides) -> PixArtConfig:
        """Read the dimensions off the tensors. overrides: `num_heads`; by rule a head is 72 wide.

        Raises BadInput when a tensor is missing or the overrides contradict the shapes.
        """
        shapes = header.shapes()
        width, channels, patch, _ = shape(shapes, "x_embedder.proj.weight", 4)
        config = cls(
            in_channels=channels,
            out_channels=shape(shapes, "final_layer.linear.weight", 2)[0] // patch**2,
            patch_size=patch,
            hidden_size=width,
            depth=count(shapes, "blocks.{}."),
            num_heads=int(overrides.get("num_heads") or max(1, width // HEAD_WIDTH)),
            mlp_width=shape(shapes, "blocks.0.mlp.fc1.weight", 2)[0],
            caption_channels=shape(shapes, "y_embedder.y_proj.fc1.weight", 2)[1],
            micro_condition="ar_embedder.mlp.0.weight" in header,
            span=_span(overrides, patch),
        )
        for name in ("in_channels", "patch_size", "hidden_size", "depth", "caption_channels", "micro_condition"):
            agree(overrides, name, getattr(config, name))
        if width % config.num_heads:
            raise BadInput(f"{width} channels cannot be split into {config.num_heads} attention heads.")
        return config


def _span(overrides: Overrides, patch: int) -> float:
    """Positions over a side: of the size and interpolation that the file's config gives, else the family's."""
    size, interpolation = (overrides.get(name) for name in ("input_size", "pe_interpolation"))
    return SPAN if size is None or interpolation is None else float(size) / patch * float(interpolation)


def grid_positions(width: int, rows: int, columns: int, span: float) -> Tensor:
    """Sines and cosines of the place of each patch: (rows · columns, width), float32.

    Half of the features tell the column, half the row. Positions count from 0 to `span` over each side, however many
    patches it has. Source: Chen et al. 2024, "PixArt-Σ", section 3.2.
    """
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    sides = []
    for patches in (columns, rows):
        angles = torch.outer(torch.arange(patches, dtype=torch.float64) * (span / patches), frequencies)
        sides.append(torch.cat((angles.sin(), angles.cos()), dim=1))
    column, row = sides
    both = torch.cat((column.expand(rows, -1, -1), row[:, None].expand(-1, columns, -1)), dim=-1)
    return both.flatten(0, 1).float()


class Embedder(nn.Module):
    """Numbers as sines and cosines, through two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(Linear(256, width), nn.SiLU(), Linear(width, width))

    def forward(self, numbers: Tensor, dtype: torch.dtype) -> Tensor:
        """numbers: (B,) or (B, K) → (B, D) or (B, K · D)."""
        embedded = self.mlp(timestep_embedding(numbers.flatten(), 256).to(dtype))
        return embedded.view(len(numbers), -1)


class Mlp(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, width: int, inner: int, out: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, inner)
        self.fc2 = Linear(inner, out)

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, width) → (…, out)."""
        return self.fc2(gelu(self.fc1(x)))


class Captions(nn.Module):
    """Text tokens brought to the network's width. What stood for no text in training (`y_embedding`) is not used."""

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        self.y_proj = Mlp(config.caption_channels, config.hidden_size, config.hidden_size)

    def forward(self, context: Tensor) -> Tensor:
        """context: (B, L, caption_channels) → (B, L, D)."""
        return self.y_proj(context)


class SelfAttention(nn.Module):
    """Attention over the patches."""

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, hooks: Hooks) -> Tensor:
        """x: (B, N, D) → like x."""
        q, k, v = split_linear(self.qkv, x, 3)
        return self.proj(attention.optimized_attention(q, k, v, self.heads, transformer_options=hooks))


class CrossAttention(nn.Module):
    """Attention of the patches over the text."""

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.q_linear = Linear(config.hidden_size, config.hidden_size)
        self.kv_linear = Linear(config.hidden_size, 2 * config.hidden_size)
        self.proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, text: Tensor, hooks: Hooks) -> Tensor:
        """x: (B, N, D), text: (B, L, D) → like x."""
        k, v = self.kv_linear(text).chunk(2, dim=-1)
        return self.proj(attention.optimized_attention(self.q_linear(x), k, v, self.heads, transformer_options=hooks))


class Block(nn.Module):
    """Self-attention, attention to the text, feed-forward; the first and the last are scaled, shifted and gated."""

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm1 = LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = SelfAttention(config)
        self.cross_attn = CrossAttention(config)
        self.norm2 = LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = Mlp(width, config.mlp_width, width)
        self.scale_shift_table = nn.Parameter(torch.empty(6, width))

    def forward(self, x: Tensor, text: Tensor, modulation: Tensor, hooks: Hooks) -> Tensor:
        """x: (B, N, D), text: (B, L, D), modulation: (B, 6, D) → like x."""
        both = self.scale_shift_table.to(x.dtype) + modulation
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = both[:, :, None].unbind(1)
        x = torch.addcmul(x, gate, self.attn(torch.addcmul(shift, self.norm1(x), 1 + scale), hooks))
        x = add_to(self.cross_attn(x, text, hooks), x)
        return add_gated(x, mlp_gate, self.mlp(torch.addcmul(mlp_shift, self.norm2(x), 1 + mlp_scale)))


class FinalLayer(nn.Module):
    """Patches to the latent's cells."""

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm_final = LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = Linear(width, config.patch_size**2 * config.out_channels)
        self.scale_shift_table = nn.Parameter(torch.empty(2, width))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x: (B, N, D), time: (B, D) → (B, N, patch² · out_channels)."""
        shift, scale = (self.scale_shift_table.to(x.dtype) + time[:, None])[:, :, None].unbind(1)
        return self.linear(torch.addcmul(shift, self.norm_final(x), 1 + scale))


class PatchEmbedder(nn.Module):
    """The latent cut into patches."""

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        self.proj = Conv2d(config.in_channels, config.hidden_size, config.patch_size, stride=config.patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) → (B, N, D)."""
        return self.proj(x).flatten(2).transpose(1, 2)


class PixArt(nn.Module):
    """Noise in a latent at a time, given a text."""

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.x_embedder = PatchEmbedder(config)
        self.t_embedder = Embedder(width)
        self.t_block = nn.Sequential(nn.SiLU(), Linear(width, 6 * width))
        self.y_embedder = Captions(config)
        # two numbers of the size and one of the aspect ratio share the width
        self.csize_embedder = Embedder(width // 3) if config.micro_condition else None
        self.ar_embedder = Embedder(width // 3) if config.micro_condition else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(config)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        c_size: Tensor | None = None,
        c_ar: Tensor | None = None,
        control: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """What the network predicts for x, in x's dtype.

        x: (B, C, H, W), from 1 cell a side up. timesteps: (B,), 0 … 999. context: (B, L, caption_channels).
        c_size: (B, 2), height and width in pixels; c_ar: (B, 1), height over width; both of α alone, 0 where not said.
        transformer_options: hooks, see `limner.models.layers.hooks`; `patches_replace["dit"][("double_block", i)]`.
        """
        options = dict(transformer_options or {})
        found: Tensor = run_network(self, options, x, timesteps, context, c_size, c_ar, control, options, **kwargs)
        return found

    def _forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        c_size: Tensor | None = None,
        c_ar: Tensor | None = None,
        control: Any = None,  # noqa: ARG002 - no control network is made for it
        transformer_options: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> Tensor:
        hooks = Hooks(transformer_options)
        patch, height, width = self.config.patch_size, x.shape[-2], x.shape[-1]
        shown = F.pad(x, (0, -width % patch, 0, -height % patch), mode="circular")
        rows, columns = shown.shape[-2] // patch, shown.shape[-1] // patch
        places = grid_positions(self.config.hidden_size, rows, columns, self.config.span)
        tokens = (self.x_embedder(shown) + places.to(x)).contiguous()
        time = self._time(x, timesteps, c_size, c_ar)
        modulation = self.t_block(time).view(len(x), 6, -1)
        text = self.y_embedder(context.to(x.dtype))
        for number, block in enumerate(self.blocks):
            hooks.note(block_index=number)
            replacement = hooks.block_replacement("double_block", number)
            if replacement is None:
                tokens = block(tokens, text, modulation, hooks)
            else:
                args = {"img": tokens, "txt": text, "vec": modulation, "transformer_options": hooks}
                tokens = replacement(args, {"original_block": as_function(block, hooks)})["img"]
        cells = self.final_layer(tokens, time).view(len(x), rows, columns, patch, patch, -1)
        output = cells.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, rows * patch, columns * patch)
        return output[:, : self.config.in_channels, :height, :width]

    def _time(self, x: Tensor, timesteps: Tensor, c_size: Tensor | None, c_ar: Tensor | None) -> Tensor:
        """What all blocks are told: (B, D)."""
        time = self.t_embedder(timesteps, x.dtype)
        if self.csize_embedder is None or self.ar_embedder is None:
            return time
        size = x.new_zeros(len(x), 2) if c_size is None else c_size
        ratio = x.new_zeros(len(x), 1) if c_ar is None else c_ar
        return time + torch.cat((self.csize_embedder(size, x.dtype), self.ar_embedder(ratio, x.dtype)), dim=1)


def as_function(block: nn.Module, hooks: Hooks) -> Callable[[Mapping[str, Any]], dict[str, Tensor]]:
    """A block as packs call it that take its place."""
    return lambda args: {"img": block(args["img"], args["txt"], args["vec"], hooks)}


def conditions(model: BaseModel, entries: Mapping[str, Any]) -> dict[str, Any]:
    """The text; for α also the size of the picture in pixels and its aspect ratio, where the condition says them."""
    found = standard_conditions(model, entries)
    width, height = entries.get("width"), entries.get("height")
    if width is not None and height is not None:
        found["c_size"] = torch.tensor([[float(height), float(width)]])
        found["c_ar"] = torch.tensor([[float(entries.get("aspect_ratio", height / width))]])
    return found


def prediction(diffusion: CheckpointHeader, whole: CheckpointHeader) -> Prediction:  # noqa: ARG001
    """Noise, over betas that rise in a straight line."""
    return Prediction(
        "eps", {"beta_schedule": "sqrt_linear", "linear_start": 1e-4, "linear_end": 0.02, "timesteps": 1000}
    )


_ENDS = {
    "pos_embed.proj": "x_embedder.proj",
    "adaln_single.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "adaln_single.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "adaln_single.emb.resolution_embedder.linear_1": "csize_embedder.mlp.0",
    "adaln_single.emb.resolution_embedder.linear_2": "csize_embedder.mlp.2",
    "adaln_single.emb.aspect_ratio_embedder.linear_1": "ar_embedder.mlp.0",
    "adaln_single.emb.aspect_ratio_embedder.linear_2": "ar_embedder.mlp.2",
    "adaln_single.linear": "t_block.1",
    "caption_projection.linear_1": "y_embedder.y_proj.fc1",
    "caption_projection.linear_2": "y_embedder.y_proj.fc2",
    "proj_out": "final_layer.linear",
}
_BLOCK = {
    "attn1.to_out.0": "attn.proj",
    "attn2.to_q": "cross_attn.q_linear",
    "attn2.to_out.0": "cross_attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
_FUSED = {
    "attn1.to_q": ("attn.qkv", 0),
    "attn1.to_k": ("attn.qkv", 1),
    "attn1.to_v": ("attn.qkv", 2),
    "attn2.to_k": ("cross_attn.kv_linear", 0),
    "attn2.to_v": ("cross_attn.kv_linear", 1),
}


def diffusers_targets(depth: int, width: int) -> dict[str, Target]:
    """Diffusers' name of every tensor → where it belongs."""
    found: dict[str, Target] = {"scale_shift_table": "final_layer.scale_shift_table"}
    for leaf in ("weight", "bias"):
        found |= {f"{theirs}.{leaf}": f"{ours}.{leaf}" for theirs, ours in _ENDS.items()}
        for number in range(depth):
            there, here = f"transformer_blocks.{number}", f"blocks.{number}"
            found |= {f"{there}.{theirs}.{leaf}": f"{here}.{ours}.{leaf}" for theirs, ours in _BLOCK.items()}
            for theirs, (ours, place) in _FUSED.items():
                found[f"{there}.{theirs}.{leaf}"] = Part(f"{here}.{ours}.{leaf}", place * width, width)
    for number in range(depth):
        found[f"transformer_blocks.{number}.scale_shift_table"] = f"blocks.{number}.scale_shift_table"
    return found


def _from_diffusers(header: CheckpointHeader) -> Mapping[str, Target]:
    shapes = header.shapes()
    return diffusers_targets(count(shapes, "transformer_blocks.{}."), shape(shapes, "pos_embed.proj.weight", 4)[0])


def _lora_aliases(config: PixArtConfig, names: Sequence[str]) -> Mapping[str, Target]:
    """Diffusers' names of those weights that the network has."""
    return weights_alone(diffusers_targets(config.depth, config.hidden_size), names)


SIGMA = Family(
    name="pixart_sigma",
    title="PixArt-Σ",
    marks=(
        has("t_block.1.weight"),
        has("y_embedder.y_proj.fc1.weight"),
        has("final_layer.scale_shift_table"),
        has("blocks.0.cross_attn.kv_linear.weight"),
        lacks("ar_embedder.mlp.0.weight"),
    ),
    infer_config=PixArtConfig.from_header,
    network=PixArt,
    prediction=prediction,
    latent=FORMATS["SDXL"],
    text=TextEncoding(
        types=("pixart",),
        parts=(
            TextPart(
                "t5xxl",
                "t5xxl",
                ("text_encoders.t5xxl.transformer.", "text_encoders."),
                EncodeSettings(start=-1, end=1, pad=0, empty_end=False),
                RowSettings(min_length=1, max_length=None, pad_to_max=False, embeddings=False),
            ),
        ),
    ),
    vae_prefixes=("vae.", "first_stage_model."),
    conditions=conditions,
    context_width=lambda config: config.caption_channels,
    diffusers=DiffusersLayout(
        (has("adaln_single.emb.timestep_embedder.linear_1.bias"), has("pos_embed.proj.bias")), _from_diffusers
    ),
    lora=LoraNames(
        _lora_aliases,
        ("transformer.{dots}", "base_model.model.{dots}", "unet.base_model.model.{dots}"),
        signs=("cross_attn_kv_linear", "caption_projection_linear_1"),
    ),
    legacy=lambda config: {"image_model": "pixart_alpha" if config.micro_condition else "pixart_sigma"},
    memory_factor=0.3,  # measured: benchmarks/memory_formula.py
    memory_text=7.0,
)
ALPHA = replace(
    SIGMA,
    name="pixart_alpha",
    title="PixArt-α",
    marks=(*SIGMA.marks[:-1], has("ar_embedder.mlp.0.weight")),
    latent=FORMATS["SD15"],
)
FAMILIES = (SIGMA, ALPHA)
