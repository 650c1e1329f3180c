"""nvfp4: four-bit floats e2m1 (0, ½, 1, 1½, 2, 3, 4, 6), an e4m3 scale for each 16 of a row, a float32 for the whole.

weight ≈ global · scale · number; global = amax / (448 · 6), so that the scale of the largest block is e4m3's largest.
Two numbers a byte, the first in the low bits; the highest bit of four is the sign.
Sources: OCP Microscaling Formats (MX) Specification 1.0, section 5.3.3 (e2m1); NVIDIA, "Introducing NVFP4".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from limner.weights.quant.layout import Encoded, Layout
from limner.weights.quant.lookup import nibbles_as
from limner.weights.quant.parts import Parts
from limner.weights.quant.rounding import (
    E2M1,
    E4M3,
    Rounding,
    in_blocks,
    pack_nibbles,
    pad_columns,
    positive,
    table,
    unpack_nibbles,
)

BLOCK = 16
SIZES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
SIGN = 8
VALUES = (*SIZES, *(-size for size in SIZES))


class NVFP4(Layout):
    """Numbers (rows, columns padded to 16, halved), block scales (rows, blocks), one global scale."""

    name = "nvfp4"
    row_by_row = True
    storage = torch.uint8
    elementwise = False
    stored: Mapping[str, str] = {"scale": "weight_scale", "global_scale": "weight_scale_2"}
    block = BLOCK
    matrices_only = True
    largest_input = E4M3.largest * E2M1.largest
    may_be_zero = frozenset(("scale",))
    least_sqnr = 20.0

    def encode(self, matrix: Tensor, rounding: Rounding, scale: Tensor | None, **options: Any) -> Encoded:
        """scale: the global one."""
        self.refuse_unknown(options)
        blocks = in_blocks(pad_columns(matrix, BLOCK), BLOCK)
        whole = positive(matrix.abs().amax() / (E4M3.largest * E2M1.largest) if scale is None else scale.reshape(()))
        wanted = blocks.abs().amax(2) / E2M1.largest / whole
        scales = Rounding().to_float8(wanted, torch.float8_e4m3fn)
        # A block so small that its scale rounds to zero becomes zero: finite numbers over infinity.
        steps = torch.where(scales.float() == 0, float("inf"), scales.float() * whole)
        numbers = rounding.to_grid(blocks / steps[..., None], E2M1)
        codes = torch.bucketize(numbers.abs(), table(SIZES, matrix.device)).to(torch.uint8)
        codes = codes | (numbers < 0).to(torch.uint8) * SIGN
        return pack_nibbles(codes.flatten(1)), {"scale": scales, "global_scale": whole}, {}

    def decode(self, parts: Parts) -> Tensor:
        """global · scale · number."""
        numbers = in_blocks(nibbles_as(parts.numbers, VALUES), BLOCK)
        return numbers.mul_(self._steps(parts)).flatten(1)[:, : parts.columns]

    def half_steps(self, parts: Parts) -> Tensor:
        """Half the distance of neighbours, and what a block's scale loses where it is below e4m3's normal numbers."""
        sizes = table((*SIZES, *SIZES), parts.numbers.device)
        spacing = in_blocks(E2M1.spacing(sizes[unpack_nibbles(parts.numbers).int()]), BLOCK)
        least = E2M1.largest * 2.0 ** (E4M3.least - E4M3.mantissa - 1) * parts.tensors["global_scale"].float()
        return (spacing * self._steps(parts) * 0.5 * (1 + 1e-4) + least).flatten(1)[:, : parts.columns]

    def _steps(self, parts: Parts) -> Tensor:
        return parts.tensors["scale"].float()[..., None] * parts.tensors["global_scale"].float()


LAYOUTS = (NVFP4(),)
