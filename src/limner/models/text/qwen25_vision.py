"""Qwen2.5-VL's vision tower: a picture to vectors of the language model. Bai et al. 2025, section 2.1.1.

Patches of 14 × 14 pixels; four neighbours, 2 × 2, become one vector in the end, so patches are kept in the order in
which those four stand together. Most blocks attend inside windows of 112 × 112 pixels, four of them everywhere.

Shape letters: N patches, D width, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput
from limner.models.layers.shapes import Overrides, Shapes, agree, count, shape
from limner.weights.ops import Conv3d, Linear, RMSNorm, arrived

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
MIN_PIXELS = 3136
MAX_PIXELS = 12_845_056
Grid = tuple[int, int, int]
"""Frames, rows and columns of patches."""


@dataclass(frozen=True)
class VisionConfig:
    """The dimensions of a tower; the defaults are those of Qwen2.5-VL 7B.

    output_hidden_size: width of the language model. window_size: of a window's side, in pixels. full_blocks: those
    that attend everywhere.
    """

    hidden_size: int = 1280
    output_hidden_size: int = 3584
    intermediate_size: int = 3420
    num_heads: int = 16
    num_layers: int = 32
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    window_size: int = 112
    full_blocks: tuple[int, ...] = (7, 15, 23, 31)

    @classmethod
    def from_state(cls, shapes: Shapes, overrides: Overrides) -> VisionConfig:
        """Read the dimensions off the tensors of a tower.

        overrides: num_heads (by rule width / 80, at least 1), window_size (112) and full_blocks (every eighth) are
        taken from it, what shapes tell must agree with it.
        """
        width, _, frames, patch, _ = shape(shapes, "patch_embed.proj.weight", 5)
        merged = shape(shapes, "merger.mlp.0.weight", 2)[1]
        layers = count(shapes, "blocks.{}.")
        config = cls(
            hidden_size=width,
            output_hidden_size=shape(shapes, "merger.mlp.2.weight", 2)[0],
            intermediate_size=shape(shapes, "blocks.0.mlp.up_proj.weight", 2)[0],
            num_heads=int(overrides.get("num_heads") or max(1, width // 80)),
            num_layers=layers,
            patch_size=patch,
            temporal_patch_size=frames,
            spatial_merge_size=round((merged / width) ** 0.5),
            window_size=int(overrides.get("window_size") or 112),
            full_blocks=tuple(
                overrides.get("full_blocks") or overrides.get("fullatt_block_indexes") or range(7, layers, 8)
            ),
        )
        for name in ("hidden_size", "output_hidden_size", "intermediate_size", "num_layers", "patch_size",
                     "temporal_patch_size", "spatial_merge_size"):  # fmt: skip
            agree(overrides, name, getattr(config, name))
        if width % config.num_heads or width // config.num_heads % 4:
            raise BadInput(
                f"{width} channels cannot be split into {config.num_heads} attention heads of a multiple of 4.",
                do="Give a num_heads in the file's `vision_config` that fits the width.",
            )
        return config


def patches_of(picture: Tensor, config: VisionConfig) -> tuple[Tensor, Grid]:
    """A picture as patches in the tower's order, normalised: (N, channels · frames · patch²), and their grid.

    picture: (1, H, W, 3) in 0..1. It is resized so that its sides are multiples of the patches that are merged, and
    its area is between MIN_PIXELS and MAX_PIXELS. A still picture is a video of equal frames.
    """
    unit = config.patch_size * config.spatial_merge_size
    height, width = fitting(picture.shape[1], picture.shape[2], unit)
    pixels = picture[:1, ..., :3].movedim(-1, 1).float()
    pixels = F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    pixels = (pixels - mean) / std
    rows, columns, merge = height // config.patch_size, width // config.patch_size, config.spatial_merge_size
    video = pixels[:, :, None].expand(-1, -1, config.temporal_patch_size, -1, -1)
    cut = video.reshape(3, config.temporal_patch_size, rows // merge, merge, config.patch_size, columns // merge,
                        merge, config.patch_size)  # fmt: skip
    patches = cut.permute(2, 5, 3, 6, 0, 1, 4, 7).reshape(rows * columns, -1)
    return patches, (1, rows, columns)


def fitting(height: int, width: int, unit: int) -> tuple[int, int]:
    """The nearest sides that are multiples of `unit` and whose area is within bounds."""
    rows, columns = max(unit, round(height / unit) * unit), max(unit, round(width / unit) * unit)
    if rows * columns > MAX_PIXELS:
        scale = (height * width / MAX_PIXELS) ** 0.5
        rows, columns = (max(unit, int(side / scale // unit) * unit) for side in (height, width))
    elif rows * columns < MIN_PIXELS:
        scale = (MIN_PIXELS / (height * width)) ** 0.5
        rows, columns = (int(-(-side * scale // unit)) * unit for side in (height, width))
    return rows, columns


class PatchEmbed(nn.Module):
    """Patches to vectors."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = Conv3d(3, config.hidden_size, kernel, stride=kernel, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        """patches: (N, channels · frames · patch²) → (N, D). A convolution that never overlaps is a product."""
        return F.linear(patches, arrived(self.proj, patches)[0].flatten(1))


class Attention(nn.Module):
    """Self-attention among the patches of a window."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, windows: list[int]) -> Tensor:
        """x: (N, D) → the same shape. cos, sin: (N, width of a head). windows: how many patches each holds."""
        q, k, v = self.qkv(x).view(len(x), 3, self.heads, -1).unbind(1)
        q, k = (_turn(part, cos[:, None], sin[:, None]) for part in (q, k))
        parts = zip(*(part.transpose(0, 1)[None].split(windows, dim=2) for part in (q, k, v)), strict=True)
        out = torch.cat([F.scaled_dot_product_attention(*part) for part in parts], dim=2)
        return self.proj(out[0].transpose(0, 1).flatten(1))


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class MLP(nn.Module):
    """Two linear layers with a gate between."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, D) → the same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)).mul_(self.up_proj(x)))


class Block(nn.Module):
    """Self-attention and feed-forward, each normalised before and added after."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.hidden_size, eps=1e-6)
        self.norm2 = RMSNorm(config.hidden_size, eps=1e-6)
        self.attn = Attention(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, windows: list[int]) -> Tensor:
        """x: (N, D) → the same shape."""
        x = x + self.attn(self.norm1(x), cos, sin, windows)
        return x + self.mlp(self.norm2(x))


class Merger(nn.Module):
    """Neighbouring patches to one vector of the language model."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.together = config.spatial_merge_size**2
        inner = config.hidden_size * self.together
        self.ln_q = RMSNorm(config.hidden_size, eps=1e-6)
        self.mlp = nn.Sequential(Linear(inner, inner), nn.GELU(), Linear(inner, config.output_hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, D) → (N / 4, width of the language model)."""
        found: Tensor = self.mlp(self.ln_q(x).view(-1, self.together * x.shape[-1]))
        return found


class VisionTower(nn.Module):
    """Patches of a picture to vectors of the language model."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.merger = Merger(config)

    def forward(self, patches: Tensor, grid: Grid) -> Tensor:
        """patches: (N, channels · frames · patch²), as `patches_of` gives them → (N / 4, width of what reads them)."""
        together = self.config.spatial_merge_size**2
        order, windows = self._windows(grid, patches.device)
        x, angles = self.patch_embed(patches), self._angles(grid, patches.device)
        x, angles = (part.view(-1, together, part.shape[-1])[order].flatten(0, 1) for part in (x, angles))
        cos, sin = angles.cos(), angles.sin()
        whole = [grid[1] * grid[2]] * grid[0]
        for number, block in enumerate(self.blocks):
            x = block(x, cos, sin, whole if number in self.config.full_blocks else windows)
        return self.merger(x)[order.argsort()]

    def _angles(self, grid: Grid, device: torch.device) -> Tensor:
        """How far each patch's channels are turned, by row in the first half and by column in the second: (N, W)."""
        frames, rows, columns = grid
        merge, width = self.config.spatial_merge_size, self.config.hidden_size // self.config.num_heads
        row, column = torch.meshgrid(
            torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
        )
        places = [
            axis.reshape(rows // merge, merge, columns // merge, merge).permute(0, 2, 1, 3).flatten()
            for axis in (row, column)
        ]
        frequencies = 10000.0 ** -(torch.arange(0, width // 2, 2, device=device).float() / (width // 2))
        half = torch.cat([place[:, None].float() * frequencies for place in places], dim=-1).repeat(frames, 1)
        return torch.cat((half, half), dim=-1)

    def _windows(self, grid: Grid, device: torch.device) -> tuple[Tensor, list[int]]:
        """The merged patches window by window, and how many patches each window holds; those at the edge hold fewer."""
        frames, rows, columns = grid
        merge = self.config.spatial_merge_size
        side = self.config.window_size // self.config.patch_size // merge
        rows, columns = rows // merge, columns // merge
        numbers = torch.arange(frames * rows * columns, device=device).view(frames, rows, columns)
        parts = [
            numbers[frame, top : top + side, left : left + side].flatten()
            for frame in range(frames)
            for top in range(0, rows, side)
            for left in range(0, columns, side)
        ]
        return torch.cat(parts), [len(part) * merge**2 for part in parts]
