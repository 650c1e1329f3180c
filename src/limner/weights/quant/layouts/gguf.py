"""The layouts of GGUF files: blocks that hold their own scales, kept as the file has them and read when computed with.

The five of 32 weights with linear codes are written too, so that a changed weight can go back to what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.weights.quant.gguf_blocks import BLOCKS
from limner.weights.quant.layout import Encoded, Layout
from limner.weights.quant.parts import Parts, matrix_shape
from limner.weights.quant.rounding import Rounding, in_blocks, pack_nibbles

HALF_MAX = 65504.0
HALF_LEAST = 2.0**-24
SQNR = {"Q4_0": 19.0, "Q4_1": 20.0, "Q5_0": 25.0, "Q5_1": 26.0, "Q8_0": 44.0}


class GGUF(Layout):
    """kind: the type's name in GGUF. Numbers: (rows, bytes of a row) uint8; there is nothing beside them."""

    storage = torch.uint8
    elementwise = False
    stored: Mapping[str, str] = {}

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.form = BLOCKS[kind]
        self.name = f"gguf_{kind.lower()}"
        self.block = self.form.weights
        self.writes = kind in SQNR
        self.least_sqnr = SQNR.get(kind, 0.0)

    def encode(self, matrix: Tensor, rounding: Rounding, scale: Tensor | None, **options: Any) -> Encoded:
        """Scales are of the layout's own making."""
        self.refuse_unknown(options)
        rows, columns = matrix.shape
        if columns % self.block:
            raise BadInput(
                f"Rows of {columns} weights do not fit {self.name}.", why=f"Its blocks hold {self.block} of a row."
            )
        row_bytes = columns // self.block * self.form.bytes
        if matrix.is_meta:
            return torch.empty(rows, row_bytes, dtype=torch.uint8, device="meta"), {}, {}
        if not self.writes:
            raise BadInput(
                f"{self.name} is only read.", do="Choose a layout that is written, such as gguf_q8_0 or nf4."
            )
        if scale is not None:
            raise BadInput(f"{self.name} makes its own scales.", why="They are part of its blocks.")
        return _written(self.kind, matrix.reshape(-1, self.block), rounding).reshape(rows, row_bytes), {}, {}

    def decode(self, parts: Parts) -> Tensor:
        """Block by block."""
        return self.form.read(self._blocks(parts)).reshape(parts.rows, parts.columns)

    def half_steps(self, parts: Parts) -> Tensor | None:
        """Half a step, a whole one where the largest code cut off; and what float16 loses of a scale and a minimum."""
        if not self.writes:
            return None
        blocks = self._blocks(parts)
        step = blocks[:, :2].contiguous().view(torch.float16).float().abs()
        bound = (step * 0.5 * (1 + 2.0**-9) + 64 * HALF_LEAST).expand(-1, self.block)
        if self.kind in ("Q4_1", "Q5_1"):
            bound = bound + blocks[:, 2:4].contiguous().view(torch.float16).float().abs() * 2.0**-10
        if self.kind in ("Q4_0", "Q5_0"):
            top = 7 if self.kind == "Q4_0" else 15
            codes = self.form.read(blocks) / blocks[:, :2].contiguous().view(torch.float16).float().where(step > 0, 1)
            # As large as the largest and of the other sign: half a step more, and what float16 took off the steps.
            bound = bound + (codes.round() == top) * step * (0.5 + (top + 1) * 2.0**-11)
        return bound.reshape(parts.rows, parts.columns)

    def viewed(self, parts: Parts, shape: tuple[int, ...]) -> Parts | None:
        """Blocks lie one after the other, so rows may be cut anew wherever a block ends."""
        rows, columns = matrix_shape(shape)
        if columns % self.block:
            return None
        return replace(parts, numbers=parts.numbers.reshape(rows, -1), shape=shape)

    def shape_of(self, numbers: Tensor) -> tuple[int, ...]:
        """(rows, columns)."""
        return (numbers.shape[0], numbers.shape[1] // self.form.bytes * self.block)

    def _blocks(self, parts: Parts) -> Tensor:
        return parts.numbers.reshape(-1, self.form.bytes)


def _written(kind: str, blocks: Tensor, rounding: Rounding) -> Tensor:
    """blocks: (n, 32) float32 → (n, bytes)."""
    if kind == "Q8_0":
        step = _half(blocks.abs().amax(1, keepdim=True) / 127)
        codes = rounding.integer(blocks / _safe(step)).clamp(-127, 127).to(torch.int8).view(torch.uint8)
        return torch.cat((_bytes(step), codes), 1)
    top = 15 if kind.startswith("Q4") else 31
    if kind.endswith("_0"):
        largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
        step, least = _half(largest / -((top + 1) // 2)), None
        codes = rounding.integer(blocks / _safe(step)) + (top + 1) // 2
    else:
        least = _half(blocks.amin(1, keepdim=True))
        step = _half((blocks.amax(1, keepdim=True) - least.float()) / top)
        codes = rounding.integer((blocks - least.float()) / _safe(step))
    coded = codes.clamp(0, top).to(torch.uint8)
    pieces = [_bytes(step)] if least is None else [_bytes(step), _bytes(least)]
    if top == 31:
        weights = 2 ** torch.arange(8, dtype=torch.int32, device=blocks.device)
        pieces.append((in_blocks((coded >> 4), 8).int() * weights).sum(-1).to(torch.uint8))
    low, high = (coded & 15).chunk(2, 1)
    pieces.append(pack_nibbles(torch.stack((low, high), -1).flatten(1)))
    return torch.cat(pieces, 1)


def _half(x: Tensor) -> Tensor:
    return x.clamp(-HALF_MAX, HALF_MAX).half()


def _safe(step: Tensor) -> Tensor:
    return torch.where(step == 0, 1.0, step.float())


def _bytes(half: Tensor) -> Tensor:
    return half.contiguous().view(torch.uint8)


LAYOUTS = tuple(GGUF(kind) for kind in BLOCKS)
