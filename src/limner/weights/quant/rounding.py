"""Rounding to the numbers that few bits can hold: to the nearest, or at random so that the mean is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Floats of few bits. mantissa: its stored bits. least: the exponent below which numbers are spaced evenly."""

    mantissa: int
    least: int
    largest: float

    def spacing(self, x: Tensor) -> Tensor:
        """The distance between neighbours at |x|, in x's shape."""
        exponent = torch.frexp(x)[1] - 1  # |x| is in [2^e, 2^(e+1))
        return torch.exp2((exponent.clamp(min=self.least) - self.mantissa).float())


E4M3 = Grid(mantissa=3, least=-6, largest=448.0)
E5M2 = Grid(mantissa=2, least=-14, largest=57344.0)
E2M1 = Grid(mantissa=1, least=0, largest=6.0)
GRIDS = {torch.float8_e4m3fn: E4M3, torch.float8_e5m2: E5M2}


class Rounding:
    """How values become numbers. generator: None rounds to the nearest, half to even; else up or down at random."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    @classmethod
    def seeded(cls, seed: int | None, device: torch.device) -> Rounding:
        """At random from a seed, the same for the same seed; to the nearest for None."""
        return cls(None if seed is None else _generator(device).manual_seed(seed))

    def integer(self, x: Tensor) -> Tensor:
        """x: float32 → whole numbers in float32."""
        if self.generator is None:
            return x.round()
        return (x + self._random(x, self.generator)).floor()

    def to_grid(self, x: Tensor, grid: Grid) -> Tensor:
        """x: float32 → numbers of the grid in float32; larger ones become the largest."""
        x = x.clamp(-grid.largest, grid.largest)
        spacing = grid.spacing(x)
        return (self.integer(x / spacing) * spacing).clamp(-grid.largest, grid.largest)

    def to_float8(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """x: float32 → eight-bit floats; larger ones become the largest, never infinite."""
        grid = GRIDS[dtype]
        if self.generator is None:
            return x.clamp(-grid.largest, grid.largest).to(dtype)
        return self.to_grid(x, grid).to(dtype)

    def to_codebook(self, x: Tensor, values: Tensor) -> Tensor:
        """x: float32 → index of a value, int64. values: ascending, (n,)."""
        upper = torch.bucketize(x, values).clamp(1, len(values) - 1)
        low, high = values[upper - 1], values[upper]
        part = ((x - low) / (high - low)).clamp(0, 1)
        if self.generator is None:
            return upper - 1 + (part > 0.5).long()
        return upper - 1 + (self._random(x, self.generator) < part).long()

    @staticmethod
    def _random(x: Tensor, generator: torch.Generator) -> Tensor:
        return torch.rand(x.shape, generator=generator, device=generator.device).to(x.device)


def _generator(device: torch.device) -> torch.Generator:
    """The device's; the CPU's for one that makes no random numbers."""
    try:
        return torch.Generator(device)
    except RuntimeError:
        return torch.Generator()


def table(values: Sequence[float], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers that a layout is defined by on a device, which the computer does not wait for."""
    return torch.tensor(list(values), dtype=dtype).to(device, non_blocking=True)


def pad_columns(matrix: Tensor, block: int) -> Tensor:
    """Zeros on the right until the columns are a multiple of `block`."""
    missing = -matrix.shape[1] % block
    return torch.nn.functional.pad(matrix, (0, missing)) if missing else matrix


def in_blocks(matrix: Tensor, width: int) -> Tensor:
    """(rows, blocks · width) → (rows, blocks, width)."""
    return matrix.reshape(matrix.shape[0], matrix.shape[1] // width, width)


def pack_nibbles(codes: Tensor) -> Tensor:
    """codes: (rows, n) uint8 below 16, n even → (rows, n / 2): the first of two in the low bits."""
    return codes[:, ::2] | (codes[:, 1::2] << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """(rows, n) uint8 → (rows, 2 n) uint8 below 16."""
    return torch.stack((packed & 0x0F, packed >> 4), -1).flatten(-2)


def positive(scale: Tensor) -> Tensor:
    """A scale that can be divided by: float32; where all numbers are zero it is 1."""
    scale = scale.float()
    least = torch.finfo(torch.float32).tiny
    return torch.where(scale == 0, torch.ones_like(scale), scale.clamp(min=least))
