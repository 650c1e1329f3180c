"""Changes of a UNet's pass as hooks: other weights of skips, fewer or tiled tokens, smaller blocks."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limner.sampling.resize import common_upscale

Options = dict[str, Any]
OutputHook = Callable[[Tensor, Tensor, Options], tuple[Tensor, Tensor]]
BlockHook = Callable[[Tensor, Options], Tensor]
AttentionHook = Callable[[Tensor, Tensor, Tensor, Options], tuple[Tensor, Tensor, Tensor]]


def free_u(scales: Mapping[int, tuple[float, float]], adaptive: bool = False) -> OutputHook:
    """output_block_patch: backbone stronger, low frequencies of the skip weaker.  Si et al. 2023 (FreeU).

    scales: channels of h → (backbone b, skip s). Half of the backbone's channels are scaled. adaptive: b where the
    mean over channels is large, 1 where it is small (the second version).
    """

    def function(h: Tensor, skip: Tensor, options: Options) -> tuple[Tensor, Tensor]:  # noqa: ARG001
        scale = scales.get(h.shape[1])
        if scale is None:
            return h, skip
        backbone, low = scale
        half = h.shape[1] // 2
        factor: Tensor | float = backbone
        if adaptive:
            mean = h.mean(1, keepdim=True)
            least, most = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
            spread = (most - least).clamp(min=torch.finfo(h.dtype).tiny)  # 0 where all means are equal
            factor = (backbone - 1) * ((mean - least) / spread) + 1
        return torch.cat([h[:, :half] * factor, h[:, half:]], dim=1), scaled_low_frequencies(skip, low)

    return function


def scaled_low_frequencies(x: Tensor, scale: float) -> Tensor:
    """(B, C, H, W) with the four frequencies about the centre of its shifted spectrum scaled."""
    spectrum = torch.fft.fftshift(torch.fft.fftn(x.float(), dim=(-2, -1)), dim=(-2, -1))
    row, column = x.shape[-2] // 2, x.shape[-1] // 2
    spectrum[..., max(row - 1, 0) : row + 1, max(column - 1, 0) : column + 1] *= scale
    smooth: Tensor = torch.fft.ifftn(torch.fft.ifftshift(spectrum, dim=(-2, -1)), dim=(-2, -1)).real
    return smooth.to(x.dtype)


@dataclass(frozen=True)
class DeepShrink:
    """A block's result made smaller between two noise levels, and larger again on the way up.  Kohya's "Deep Shrink".

    block: number on the way down. factor: how many times smaller. start, end: sigmas, both included.
    """

    block: int
    factor: float
    start: float
    end: float
    down_method: str
    up_method: str

    def shrink(self, h: Tensor, options: Options) -> Tensor:
        """input_block_patch, before or after the skip is stored."""
        if options["block"][1] != self.block or not self.end <= float(options["sigmas"][0]) <= self.start:
            return h
        height, width = (round(side / self.factor) for side in h.shape[-2:])
        return common_upscale(h, width, height, self.down_method)

    def grow(self, h: Tensor, skip: Tensor, options: Options) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """output_block_patch: h in the size of its skip."""
        if h.shape[2] != skip.shape[2]:
            h = common_upscale(h, skip.shape[-1], skip.shape[-2], self.up_method)
        return h, skip


def step_generator(options: Options) -> torch.Generator:
    """Random choices that are the same for the same noise level and place in the network, run after run."""
    sigma = options.get("sigmas")
    bits = struct.unpack("<I", struct.pack("<f", 0.0 if sigma is None else float(sigma[0])))[0]
    return torch.Generator().manual_seed(int(bits) * 1009 + int(options.get("transformer_index", 0)))


class HyperTile:
    """Self-attention tile by tile where tokens are many.  tfernd 2023 (HyperTile).

    tile: cells a side. swaps: of how many tilings one is chosen at each place. max_depth: how many halvings deep.
    scale_depth: tiles of deeper levels are as much larger. Queries are tiled; keys and values are cut in as many runs
    of rows, which is what the reference's attention makes of them.
    """

    def __init__(self, tile: int, swaps: int, max_depth: int, scale_depth: bool) -> None:
        self.tile, self.swaps, self.max_depth, self.scale_depth = tile, swaps, max_depth, scale_depth
        self.grid: tuple[int, int, int, int] | None = None

    def split(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor]:
        """attn1_patch."""
        self.grid = None
        height, width = options["original_shape"][-2:]
        levels = [(height / 2**i) * (width / 2**i) for i in range(self.max_depth + 1)]
        tokens = q.shape[1]
        if tokens not in levels:
            return q, k, v
        aspect = width / height
        rows, columns = round(math.sqrt(tokens * aspect)), round(math.sqrt(tokens / aspect))
        size = self.tile * (2 ** levels.index(tokens) if self.scale_depth else 1)
        generator = step_generator(options)
        down, across = (self._parts(side, size, generator) for side in (rows, columns))
        if down * across == 1:
            return q, k, v
        self.grid = (down, across, rows, columns)
        tiles = q.reshape(len(q), down, rows // down, across, columns // across, -1).transpose(2, 3)
        keys, values = (part.reshape(len(part) * down * across, -1, part.shape[-1]) for part in (k, v))
        return tiles.flatten(0, 2).flatten(1, 2), keys, values

    def join(self, out: Tensor, options: Options) -> Tensor:  # noqa: ARG002
        """attn1_output_patch."""
        if self.grid is None:
            return out
        down, across, rows, columns = self.grid
        self.grid = None
        tiles = out.reshape(-1, down, across, rows // down, columns // across, out.shape[-1])
        return tiles.transpose(2, 3).flatten(1, 4)

    def _parts(self, side: int, least: int, generator: torch.Generator) -> int:
        least = min(least, side)
        counts = [side // size for size in range(least, side + 1) if side % size == 0][: self.swaps]
        if len(counts) == 1:
            return counts[0]
        return counts[int(torch.randint(0, len(counts) - 1, (1,), generator=generator))]


class TokenMerging:
    """The most alike queries merged before self-attention at full resolution.  Bolya & Hoffman 2023 (ToMe for SD)."""

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self.unmerge: Callable[[Tensor], Tensor] | None = None

    def merge(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor]:
        """attn1_patch."""
        self.unmerge = None
        height, width = options["original_shape"][-2:]
        if q.shape[1] != height * width:
            return q, k, v
        count = int(q.shape[1] * self.ratio)
        if count == 0:
            return q, k, v
        merged, self.unmerge = merge_tokens(q, (height, width), count, step_generator(options))
        return merged, k, v

    def restore(self, out: Tensor, options: Options) -> Tensor:  # noqa: ARG002
        """attn1_output_patch."""
        unmerge, self.unmerge = self.unmerge, None
        return out if unmerge is None else unmerge(out)


def merge_tokens(
    x: Tensor, size: tuple[int, int], count: int, generator: torch.Generator
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """x (B, H·W, C) with `count` tokens averaged into their most alike, and what spreads a result over all again.

    One token of every 2×2 stays and takes others in; which one is chosen at random.
    """
    stays, goes = _destinations(size, generator)
    stays, goes = (torch.as_tensor(part, device=x.device) for part in (stays, goes))
    unit = x / x.norm(dim=-1, keepdim=True)
    alike, partner = (unit[:, goes] @ unit[:, stays].transpose(-1, -2)).max(dim=-1)
    order = alike.argsort(dim=-1, descending=True)
    count = min(count, len(goes))
    gone, kept = order[:, :count], order[:, count:]
    into = partner.gather(1, gone)
    sources = x[:, goes]

    def at(tensor: Tensor, index: Tensor) -> Tensor:
        return tensor.gather(1, index[..., None].expand(-1, -1, tensor.shape[-1]))

    destinations = x[:, stays].scatter_reduce(
        1, into[..., None].expand(-1, -1, x.shape[-1]), at(sources, gone), reduce="mean"
    )

    def unmerge(out: Tensor) -> Tensor:
        single, joined = out[:, : kept.shape[1]], out[:, kept.shape[1] :]
        spread = out.new_zeros(len(out), len(goes), out.shape[-1])
        spread.scatter_(1, kept[..., None].expand_as(single), single)
        spread.scatter_(1, gone[..., None].expand(-1, -1, out.shape[-1]), at(joined, into))
        whole = out.new_empty(len(out), size[0] * size[1], out.shape[-1])
        whole[:, stays], whole[:, goes] = joined, spread
        return whole

    return torch.cat([at(sources, kept), destinations], dim=1), unmerge


def _destinations(size: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices of one token of every whole 2×2 square, and of all others."""
    height, width = size
    rows, columns = height // 2, width // 2
    pick = torch.randint(4, (rows, columns), generator=generator)
    row = torch.arange(rows)[:, None] * 2 + pick // 2
    column = torch.arange(columns)[None] * 2 + pick % 2
    chosen = torch.zeros(height * width, dtype=torch.bool)
    chosen[(row * width + column).flatten()] = True
    return chosen.nonzero().flatten(), (~chosen).nonzero().flatten()
