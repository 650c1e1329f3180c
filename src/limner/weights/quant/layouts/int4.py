"""int4, symmetric, with one scale for each group of a row: two numbers a byte, the first in the low bits.

weight ≈ scale · (code − 8), scale = amax / 7, code in 1…15.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.weights.quant.layout import Encoded, Layout
from limner.weights.quant.lookup import nibbles_as
from limner.weights.quant.parts import Parts
from limner.weights.quant.rounding import Rounding, in_blocks, pack_nibbles, pad_columns, positive

LARGEST = 7
GROUP = 64
VALUES = tuple(float(code - LARGEST - 1) for code in range(16))


class Int4Groups(Layout):
    """group: weights that share a scale, even, at least 16. The last group of a row may be shorter."""

    name = "int4_groups"
    row_by_row = True
    storage = torch.uint8
    elementwise = False
    block = GROUP
    least_sqnr = 19.0

    def encode(self, matrix: Tensor, rounding: Rounding, scale: Tensor | None, **options: Any) -> Encoded:
        """scale: (rows, groups)."""
        self.refuse_unknown(options, "group")
        group = options.get("group", GROUP)
        if type(group) is not int or group < 16 or group % 2:
            raise BadInput(f"A group of {group!r} weights cannot share a scale.", why="It is an even number from 16.")
        blocks = in_blocks(pad_columns(matrix, group), group)
        scale = positive(blocks.abs().amax(2) / LARGEST if scale is None else scale)
        codes = rounding.integer(blocks / scale[..., None]).clamp(-LARGEST, LARGEST) + (LARGEST + 1)
        return pack_nibbles(codes.flatten(1).to(torch.uint8)), {"scale": scale}, {"group": group}

    def decode(self, parts: Parts) -> Tensor:
        """scale · (code − 8)."""
        numbers = in_blocks(nibbles_as(parts.numbers, VALUES), parts.plain["group"])
        scaled = numbers.mul_(parts.tensors["scale"].float()[..., None])
        return scaled.flatten(1)[:, : parts.columns]

    def half_steps(self, parts: Parts) -> Tensor:
        """Half a step of each group."""
        steps = parts.tensors["scale"].float().repeat_interleave(parts.plain["group"], 1)
        return steps[:, : parts.columns] * 0.5 * (1 + 1e-4)


LAYOUTS = (Int4Groups(),)
