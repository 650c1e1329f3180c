"""Eight-bit floats, e4m3fn and e5m2, with one scale for the tensor or one for each row.

weight ≈ scale · number, scale = amax / the largest number of the dtype (448, 57344). Inputs are rounded with a fixed
`input_scale`, or with one that is measured each time: for the whole, or for each token where weights have one a row.
Source: Micikevicius et al. 2022, "FP8 Formats for Deep Learning".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.weights.quant.layout import Encoded, Layout
from limner.weights.quant.lookup import float8_as_float
from limner.weights.quant.matmul import fp8_product, fp8_rounded, multiplies_fp8
from limner.weights.quant.parts import Parts
from limner.weights.quant.rounding import GRIDS, Rounding, positive


class Float8(Layout):
    """dtype: of the numbers. by_row: a scale for each."""

    row_by_row = True
    largest_input = torch.finfo(torch.float8_e4m3fn).max

    def __init__(self, name: str, dtype: torch.dtype, by_row: bool, least_sqnr: float) -> None:
        self.name = name
        self.storage = dtype
        self.by_row = by_row
        self.least_sqnr = least_sqnr

    def encode(self, matrix: Tensor, rounding: Rounding, scale: Tensor | None, **options: Any) -> Encoded:
        """Numbers that are too large for a given scale become the largest. dtype: instead of the layout's own."""
        self.refuse_unknown(options, "dtype")
        dtype = options.get("dtype", self.storage)
        if dtype not in GRIDS:
            raise BadInput(f"{dtype} is no dtype of eight-bit floats.", why="They are e4m3fn and e5m2.")
        if scale is None:
            amax = matrix.abs().amax(1, keepdim=True) if self.by_row else matrix.abs().amax()
            scale = amax / torch.finfo(dtype).max
        scale = positive(scale)
        plain = {} if dtype == self.storage else {"dtype": dtype}
        return rounding.to_float8(matrix / scale, dtype), {"scale": scale}, plain

    def decode(self, parts: Parts) -> Tensor:
        """scale · number."""
        return float8_as_float(parts.numbers).reshape(parts.rows, -1).mul_(self.scale(parts))

    def half_steps(self, parts: Parts) -> Tensor:
        """Half the distance of neighbouring floats; what float32 loses in dividing is a hundredth of that or less."""
        numbers = parts.numbers.float().reshape(parts.rows, -1)
        return GRIDS[parts.numbers.dtype].spacing(numbers) * self.scale(parts) * 0.5 * (1 + 1e-4)

    def encode_inputs(self, x: Tensor, parts: Parts) -> Parts:
        """In e4m3 whatever the weight is: more of the product fits them."""
        numbers, scale = fp8_rounded(x, parts.tensors.get("input_scale"), self.by_row)
        return Parts(numbers, tuple(x.shape), x.dtype, {"scale": scale})

    def fast_linear(self, x: Tensor, parts: Parts, bias: Tensor | None) -> Tensor | None:
        """The device's float8 product."""
        return self.linear_of_parts(self.encode_inputs(x, parts), parts, bias, x.dtype)

    def rounded(self, x: Tensor, parts: Parts) -> Tensor:
        """As `fast_linear` rounds."""
        return self.decode(self.encode_inputs(x, parts)).to(x.dtype)

    def multiplies(self, device: torch.device) -> bool:
        """Where there are float8 products."""
        return multiplies_fp8(device)

    def linear_of_parts(self, x: Parts, weight: Parts, bias: Tensor | None, out: torch.dtype | None) -> Tensor | None:
        """Both in float8, multiplied where the device does that."""
        out = out or x.dtype
        if x.numbers.dtype not in GRIDS:
            return None
        numbers = weight.numbers.reshape(weight.rows, -1)
        product = fp8_product(x.numbers, x.tensors["scale"], numbers, weight.tensors["scale"], out)
        return product if bias is None or product is None else product + bias.to(out)


LAYOUTS = (
    Float8("float8_e4m3fn", torch.float8_e4m3fn, by_row=False, least_sqnr=31.0),
    Float8("float8_e4m3fn_rowwise", torch.float8_e4m3fn, by_row=True, least_sqnr=31.0),
    Float8("float8_e5m2", torch.float8_e5m2, by_row=False, least_sqnr=25.0),
    Float8("float8_e5m2_rowwise", torch.float8_e5m2, by_row=True, least_sqnr=25.0),
)
