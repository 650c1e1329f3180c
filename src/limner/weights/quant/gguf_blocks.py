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

from limner.weights.quant.rounding import in_blocks, table

IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


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
    shift = table(shifts, packed.device, torch.uint8)
    return ((packed[:, :, None, :] >> shift[:, None]) & mask).flatten(1)


def _nibbles(packed: Tensor, width: int) -> Tensor:
    """Low halves of `width` bytes, then their high halves, and so on."""
    return _bits(in_blocks(packed, width), range(0, 8, 4), 15)


def _bit_words(packed: Tensor) -> Tensor:
    """(n, 4) bytes → (n, 32) bits, the lowest first."""
    return (packed[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=packed.device) & 1).flatten(1)


def q4_0(blocks: Tensor) -> Tensor:
    """d · (code − 8)."""
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:], 16).float() - 8)


def q4_1(blocks: Tensor) -> Tensor:
    """d · code + m."""
    return _half(blocks, 0) * _nibbles(blocks[:, 4:], 16).float() + _half(blocks, 2)


def q5_0(blocks: Tensor) -> Tensor:
    """d · (code − 16), the fifth bits apart."""
    codes = _nibbles(blocks[:, 6:], 16) | _bit_words(blocks[:, 2:6]) << 4
    return _half(blocks, 0) * (codes.float() - 16)


def q5_1(blocks: Tensor) -> Tensor:
    """d · code + m, the fifth bits apart."""
    codes = _nibbles(blocks[:, 8:], 16) | _bit_words(blocks[:, 4:8]) << 4
    return _half(blocks, 0) * codes.float() + _half(blocks, 2)


def q8_0(blocks: Tensor) -> Tensor:
    """d · code."""
    return _half(blocks, 0) * blocks[:, 2:].contiguous().view(torch.int8).float()


def q2_k(blocks: Tensor) -> Tensor:
    """Sixteen groups: d · scale · code − dmin · minimum, four bits each for scale and minimum."""
    scales = blocks[:, :16]
    step = _half(blocks, 80) * (scales & 15).float()
    least = _half(blocks, 82) * (scales >> 4).float()
    codes = in_blocks(_bits(in_blocks(blocks[:, 16:80], 32), range(0, 8, 2), 3), 16)
    return (step[..., None] * codes.float() - least[..., None]).flatten(1)


def q3_k(blocks: Tensor) -> Tensor:
    """Sixteen groups: d · (scale − 32) · (code − 4 where the high bit is not set)."""
    packed = blocks[:, 96:108]
    low = _bits(packed[:, None, :8], range(0, 8, 4), 15)
    high = _bits(packed[:, None, 8:], range(0, 8, 2), 3)
    step = _half(blocks, 108) * ((low | high << 4).float() - 32)
    codes = _bits(in_blocks(blocks[:, 32:96], 32), range(0, 8, 2), 3).float()
    set_high = _bits(blocks[:, None, :32], range(8), 1).float()
    return (step[..., None] * in_blocks((codes - 4 * (1 - set_high)), 16)).flatten(1)


def _scales_and_minima(packed: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 12) bytes → eight scales and eight minima of six bits: four whole ones, then four in three pieces."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat((first & 63, (third & 15) | ((first >> 2) & 48)), 1)
    minima = torch.cat((second & 63, (third >> 4) | ((second >> 2) & 48)), 1)
    return scales.float(), minima.float()


def q4_k(blocks: Tensor) -> Tensor:
    """Eight groups: d · scale · code − dmin · minimum."""
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    codes = in_blocks(_nibbles(blocks[:, 16:], 32), 32).float()
    step, least = _half(blocks, 0) * scales, _half(blocks, 2) * minima
    return (step[..., None] * codes - least[..., None]).flatten(1)


def q5_k(blocks: Tensor) -> Tensor:
    """As q4_k, with the fifth bits apart."""
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    codes = in_blocks((_nibbles(blocks[:, 48:], 32) | _bits(blocks[:, None, 16:48], range(8), 1) << 4), 32)
    step, least = _half(blocks, 0) * scales, _half(blocks, 2) * minima
    return (step[..., None] * codes.float() - least[..., None]).flatten(1)


def q6_k(blocks: Tensor) -> Tensor:
    """Sixteen groups: d · scale · (code − 32), scales int8, the two high bits apart."""
    high = _bits(in_blocks(blocks[:, 128:192], 32), range(0, 8, 2), 3)
    codes = (_nibbles(blocks[:, :128], 64) | high << 4).float() - 32
    step = _half(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8).float()
    return (step[..., None] * in_blocks(codes, 16)).flatten(1)


def _iq4(codes: Tensor) -> Tensor:
    return table(IQ4_VALUES, codes.device)[codes.int()]


def iq4_nl(blocks: Tensor) -> Tensor:
    """d · value[code]."""
    return _half(blocks, 0) * _iq4(_nibbles(blocks[:, 2:], 16))


def iq4_xs(blocks: Tensor) -> Tensor:
    """Eight groups: d · (scale − 32) · value[code], a scale's low four bits and high two apart."""
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=blocks.device)
    high = (blocks[:, 2:4, None] >> shifts & 3).flatten(1)
    low = torch.stack((blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4), -1).flatten(1)
    step = _half(blocks, 0) * ((low | high << 4).float() - 32)
    return (step[..., None] * in_blocks(_iq4(_nibbles(blocks[:, 8:], 16)), 32)).flatten(1)


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
