"""GGUF's blocks, read with torch: one function a type, (n, bytes of a block) uint8 → (n, weights of a block) float32.

Blocks of 32 weights (Q4_0 … Q8_0, IQ4_NL) hold float16 scales and codes; those of 256 (the K types, IQ4_XS) hold a
float16 scale of scales, a few bits a scale, and codes.
Source: the `quants` module of the gguf package (github.com/ggml-org/llama.cpp, MIT), which the tests compare with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from limner.weights.quant.lookup import bits_of, bytes_as
from limner.weights.quant.rounding import in_blocks

IQ4_VALUES = (
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """weights, bytes: of a block. read: what it stands for."""

    weights: int
    bytes: int
    read: Callable[[Tensor], Tensor]


def _half(blocks: Tensor, start: int) -> Tensor:
    """The float16 at a byte, (n, 1)."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _bits(packed: Tensor, shifts: range, mask: int) -> Tensor:
    """packed: (n, groups, width) → (n, groups · shifts · width): each group's first bits, then its next."""
    packed = packed.contiguous()
    return torch.stack([(packed >> shift).bitwise_and_(mask) for shift in shifts], 2).flatten(1)


def _nibbles(packed: Tensor, width: int) -> Tensor:
    """Low halves of `width` bytes, then their high halves, and so on."""
    return _bits(in_blocks(packed, width), range(0, 8, 4), 15)


def _fifth(packed: Tensor) -> Tensor:
    """(n, 4) bytes → (n, 32): their bits, each where a code's fifth is."""
    return bits_of(packed).mul_(16)


def q4_0(blocks: Tensor) -> Tensor:
    """d · (code − 8)."""
    return _nibbles(blocks[:, 2:], 16).float().sub_(8).mul_(_half(blocks, 0))


def q4_1(blocks: Tensor) -> Tensor:
    """d · code + m."""
    return _nibbles(blocks[:, 4:], 16).float().mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def q5_0(blocks: Tensor) -> Tensor:
    """d · (code − 16), the fifth bits apart."""
    codes = _nibbles(blocks[:, 6:], 16).bitwise_or_(_fifth(blocks[:, 2:6]))
    return codes.float().sub_(16).mul_(_half(blocks, 0))


def q5_1(blocks: Tensor) -> Tensor:
    """d · code + m, the fifth bits apart."""
    codes = _nibbles(blocks[:, 8:], 16).bitwise_or_(_fifth(blocks[:, 4:8]))
    return codes.float().mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def q8_0(blocks: Tensor) -> Tensor:
    """d · code."""
    return blocks[:, 2:].contiguous().view(torch.int8).float().mul_(_half(blocks, 0))


def _stepped(codes: Tensor, step: Tensor, least: Tensor) -> Tensor:
    """codes: (n, groups, width), step, least: (n, groups) → step · code − least, (n, groups · width)."""
    return codes.float().mul_(step[..., None]).sub_(least[..., None]).flatten(1)


def q2_k(blocks: Tensor) -> Tensor:
    """Sixteen groups: d · scale · code − dmin · minimum, four bits each for scale and minimum."""
    scales = blocks[:, :16]
    step = _half(blocks, 80) * (scales & 15).float()
    least = _half(blocks, 82) * (scales >> 4).float()
    codes = in_blocks(_bits(in_blocks(blocks[:, 16:80], 32), range(0, 8, 2), 3), 16)
    return _stepped(codes, step, least)


def q3_k(blocks: Tensor) -> Tensor:
    """Sixteen groups: d · (scale − 32) · (code − 4 where the high bit is not set)."""
    packed = blocks[:, 96:108]
    low = _bits(packed[:, None, :8], range(0, 8, 4), 15)
    high = _bits(packed[:, None, 8:], range(0, 8, 2), 3)
    step = _half(blocks, 108) * ((low | high << 4).float() - 32)
    codes = _bits(in_blocks(blocks[:, 32:96], 32), range(0, 8, 2), 3)
    codes.bitwise_or_(_bits(blocks[:, None, :32], range(8), 1).mul_(4))
    return in_blocks(codes.float().sub_(4), 16).mul_(step[..., None]).flatten(1)


def _scales_and_minima(packed: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 12) bytes → eight scales and eight minima of six bits: four whole ones, then four in three pieces."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat((first & 63, (third & 15) | ((first >> 2) & 48)), 1)
    minima = torch.cat((second & 63, (third >> 4) | ((second >> 2) & 48)), 1)
    return scales.float(), minima.float()


def q4_k(blocks: Tensor) -> Tensor:
    """Eight groups: d · scale · code − dmin · minimum."""
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    codes = in_blocks(_nibbles(blocks[:, 16:], 32), 32)
    return _stepped(codes, _half(blocks, 0) * scales, _half(blocks, 2) * minima)


def q5_k(blocks: Tensor) -> Tensor:
    """As q4_k, with the fifth bits apart."""
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    codes = _nibbles(blocks[:, 48:], 32).bitwise_or_(_bits(blocks[:, None, 16:48], range(8), 1).mul_(16))
    return _stepped(in_blocks(codes, 32), _half(blocks, 0) * scales, _half(blocks, 2) * minima)


def q6_k(blocks: Tensor) -> Tensor:
    """Sixteen groups: d · scale · (code − 32), scales int8, the two high bits apart."""
    high = _bits(in_blocks(blocks[:, 128:192], 32), range(0, 8, 2), 3)
    codes = _nibbles(blocks[:, :128], 64).bitwise_or_(high.mul_(16)).float().sub_(32)
    step = _half(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8).float()
    return in_blocks(codes, 16).mul_(step[..., None]).flatten(1)


def iq4_nl(blocks: Tensor) -> Tensor:
    """d · value[code]."""
    return bytes_as(_nibbles(blocks[:, 2:], 16), IQ4_VALUES).mul_(_half(blocks, 0))


def iq4_xs(blocks: Tensor) -> Tensor:
    """Eight groups: d · (scale − 32) · value[code], a scale's low four bits and high two apart."""
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=blocks.device)
    high = (blocks[:, 2:4, None] >> shifts & 3).flatten(1)
    low = torch.stack((blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4), -1).flatten(1)
    step = _half(blocks, 0) * ((low | high << 4).float() - 32)
    return in_blocks(bytes_as(_nibbles(blocks[:, 8:], 16), IQ4_VALUES), 32).mul_(step[..., None]).flatten(1)


BLOCKS = {
    "Q4_0": Block(32, 18, q4_0),
    "Q4_1": Block(32, 20, q4_1),
    "Q5_0": Block(32, 22, q5_0),
    "Q5_1": Block(32, 24, q5_1),
    "Q8_0": Block(32, 34, q8_0),
    "Q2_K": Block(256, 84, q2_k),
    "Q3_K": Block(256, 110, q3_k),
    "Q4_K": Block(256, 144, q4_k),
    "Q5_K": Block(256, 176, q5_k),
    "Q6_K": Block(256, 210, q6_k),
    "IQ4_NL": Block(32, 18, iq4_nl),
    "IQ4_XS": Block(256, 136, iq4_xs),
}
