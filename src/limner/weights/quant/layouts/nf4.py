"""nf4: an index into sixteen quantiles of the normal distribution, and one largest number for each 64 of a row.

weight ≈ absmax · value[code]. `nf4_double` keeps the largest numbers of blocks in eight bits too, as a part of the
largest of their row. Two codes a byte, the first in the low bits.
Source: Dettmers et al. 2023, "QLoRA", section 3 and appendix E (the values).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limner.weights.quant.layout import Encoded, Layout
from limner.weights.quant.lookup import nibbles_as
from limner.weights.quant.parts import Parts
from limner.weights.quant.rounding import (
    Rounding,
    in_blocks,
    pack_nibbles,
    pad_columns,
    positive,
    table,
    unpack_nibbles,
)

BLOCK = 64
VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


class NF4(Layout):
    """double: the scales are quantized as well."""

    row_by_row = True
    storage = torch.uint8
    elementwise = False
    block = BLOCK
    may_be_zero = frozenset(("scale",))

    def __init__(self, name: str, double: bool, least_sqnr: float) -> None:
        self.name = name
        self.double = double
        self.least_sqnr = least_sqnr
        if double:
            self.stored = {"scale": "weight_scale", "global_scale": "weight_scale_2"}

    def encode(self, matrix: Tensor, rounding: Rounding, scale: Tensor | None, **options: Any) -> Encoded:
        """scale: (rows, blocks), the largest number of each."""
        self.refuse_unknown(options)
        blocks = in_blocks(pad_columns(matrix, BLOCK), BLOCK)
        absmax = blocks.abs().amax(2) if scale is None else scale
        tensors = {"scale": absmax}
        if self.double:
            largest = positive(absmax.amax(1, keepdim=True) / 255)
            # Rounded up: a block whose largest number is too small for it would lose its largest weight.
            tensors = {"scale": (absmax / largest).ceil().clamp(max=255).to(torch.uint8), "global_scale": largest}
            absmax = tensors["scale"].float() * largest
        values = table(VALUES, matrix.device)
        codes = rounding.to_codebook(blocks / positive(absmax)[..., None], values)
        return pack_nibbles(codes.flatten(1).to(torch.uint8)), tensors, {}

    def decode(self, parts: Parts) -> Tensor:
        """absmax · value."""
        numbers = in_blocks(nibbles_as(parts.numbers, VALUES), BLOCK)
        return numbers.mul_(self._absmax(parts)[..., None]).flatten(1)[:, : parts.columns]

    def half_steps(self, parts: Parts) -> Tensor:
        """Half the wider of the two gaps beside each value."""
        values = table(VALUES, parts.numbers.device)
        gaps = values.diff()
        wider = torch.maximum(torch.cat((gaps[:1], gaps)), torch.cat((gaps, gaps[-1:])))
        steps = in_blocks(wider[unpack_nibbles(parts.numbers).int()], BLOCK) * self._absmax(parts)[..., None]
        return steps.flatten(1)[:, : parts.columns] * 0.5 * (1 + 1e-4)

    def _absmax(self, parts: Parts) -> Tensor:
        scale = parts.tensors["scale"].float()
        return scale * parts.tensors["global_scale"].float().reshape(-1, 1) if self.double else scale


LAYOUTS = (NF4("nf4", double=False, least_sqnr=18.5), NF4("nf4_double", double=True, least_sqnr=18.5))
