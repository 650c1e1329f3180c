"""mxfp8: eight-bit floats e4m3 with a power of two for each 32 of a row.

weight ≈ 2^(e − 127) · number; the exponent e is kept as a byte (e8m0) and is the least for which no number of the block
is too large: rounding it down, as the specification leaves free, cuts off up to an eighth of the largest.
Source: OCP Microscaling Formats (MX) Specification 1.0, sections 5.1, 5.2, 6.3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limner.weights.quant.layout import Encoded, Layout
from limner.weights.quant.lookup import float8_as_float
from limner.weights.quant.parts import Parts
from limner.weights.quant.rounding import E4M3, Rounding, in_blocks, pad_columns

BLOCK = 32
BIAS = 127
UNDEFINED = 255


class MXFP8(Layout):
    """Numbers (rows, columns padded to 32), scales (rows, blocks) uint8."""

    name = "mxfp8"
    row_by_row = True
    storage = torch.float8_e4m3fn
    elementwise = False
    block = BLOCK
    least_sqnr = 31.0

    def encode(self, matrix: Tensor, rounding: Rounding, scale: Tensor | None, **options: Any) -> Encoded:
        """A scale of inputs has no place in this layout: powers of two fit every range. scale: exponents, or None."""
        self.refuse_unknown(options)
        blocks = in_blocks(pad_columns(matrix, BLOCK), BLOCK)
        if scale is None or scale.numel() == 1:
            part, exponent = torch.frexp(blocks.abs().amax(2) / E4M3.largest)  # amax / 448 = part · 2^exponent
            exponent = torch.where(part == 0.5, exponent - 1, exponent)
            exponent = torch.where(part == 0, 0, exponent)
        else:
            exponent = scale.int() - BIAS
        exponent = exponent.clamp(-BIAS, UNDEFINED - 1 - BIAS)
        numbers = rounding.to_float8(torch.ldexp(blocks, -exponent[..., None]), self.storage)
        return numbers.flatten(1), {"scale": (exponent + BIAS).to(torch.uint8)}, {}

    def decode(self, parts: Parts) -> Tensor:
        """2^(e − 127) · number."""
        exponent = self._exponent(parts)
        powers = torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent)
        return in_blocks(float8_as_float(parts.numbers), BLOCK).mul_(powers).flatten(1)[:, : parts.columns]

    def half_steps(self, parts: Parts) -> Tensor:
        """Half the distance of neighbouring floats."""
        spacing = in_blocks(E4M3.spacing(parts.numbers.float()), BLOCK)
        return torch.ldexp(spacing, self._exponent(parts)).flatten(1)[:, : parts.columns] * 0.5 * (1 + 1e-4)

    def shape_of(self, numbers: Tensor) -> tuple[int, ...]:
        """That of the numbers."""
        return tuple(numbers.shape)

    def scale_values(self, name: str, value: Tensor) -> Tensor:
        """Of the exponents: each stands for a positive number but the last, which is undefined."""
        if name != "scale":
            return value.float()
        return torch.where(value.view(torch.uint8) == UNDEFINED, float("nan"), 1.0)

    def _exponent(self, parts: Parts) -> Tensor:
        return parts.tensors["scale"].view(torch.uint8).int()[..., None] - BIAS


LAYOUTS = (MXFP8(),)
