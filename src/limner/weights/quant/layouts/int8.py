"""int8, symmetric, with one scale for the tensor or one for each row; weights alone, or inputs too.

weight ≈ scale · number, scale = amax / 127. `int8_dynamic` (W8A8) rounds the inputs of a layer as well, each token with
a scale of its own; `int8_smooth` (SmoothQuant) first moves what is uneven among the columns of the inputs into the
weights: inputs are multiplied by `pre_quant_scale`, weights were divided by it.
Sources: Dettmers et al. 2022, "LLM.int8()" (scales by row and token); Xiao et al. 2023, "SmoothQuant", eq. 4.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.weights.quant.layout import Activations, Convolution, Encoded, Layout
from limner.weights.quant.matmul import (
    LARGEST,
    int8_convolution,
    int8_product,
    multiplies_int8,
    rounded_rows,
    scaled_sums,
)
from limner.weights.quant.parts import Parts, matrix_shape
from limner.weights.quant.rounding import Rounding, positive


class Int8(Layout):
    """by_row: a scale for each row. activations: "dynamic" rounds each token with a scale of its own."""

    row_by_row = True
    storage = torch.int8
    largest_input = LARGEST

    def __init__(self, name: str, by_row: bool, least_sqnr: float, activations: Activations = "none") -> None:
        self.name = name
        self.by_row = by_row
        self.least_sqnr = least_sqnr
        self.activations = activations

    def encode(self, matrix: Tensor, rounding: Rounding, scale: Tensor | None, **options: Any) -> Encoded:
        """Numbers that are too large for a given scale become the largest."""
        self.refuse_unknown(options)
        if scale is None:
            scale = (matrix.abs().amax(1, keepdim=True) if self.by_row else matrix.abs().amax()) / LARGEST
        scale = positive(scale)
        numbers = rounding.integer(matrix / scale).clamp(-LARGEST, LARGEST)
        return numbers.to(torch.int8), {"scale": scale}, {}

    def decode(self, parts: Parts) -> Tensor:
        """scale · number."""
        return parts.numbers.reshape(parts.rows, -1).float().mul_(self.scale(parts))

    def half_steps(self, parts: Parts) -> Tensor:
        """Half a step; what float32 loses in dividing is a thousandth of that."""
        return self.scale(parts).reshape(-1, 1) * 0.5 * (1 + 1e-3)

    def arranged(self, numbers: Tensor) -> Tensor:
        """Kernels of pictures are kept channels last, as a product reads them."""
        return numbers.contiguous(memory_format=torch.channels_last) if numbers.ndim == 4 else numbers

    def encode_inputs(self, x: Tensor, parts: Parts) -> Parts:
        """By a fixed scale, or by one for each token."""
        fixed = parts.tensors.get("input_scale")
        numbers, scale = rounded_rows(x, None if fixed is None else positive(fixed.reshape(())))
        return Parts(numbers, tuple(x.shape), x.dtype, {"scale": scale})

    def rounded(self, x: Tensor, parts: Parts) -> Tensor:
        """As `fast_linear` rounds."""
        inputs = self.encode_inputs(x, parts)
        return (inputs.numbers.float() * inputs.tensors["scale"]).to(x.dtype)

    def fast_linear(self, x: Tensor, parts: Parts, bias: Tensor | None) -> Tensor | None:
        """The sums of an int8 product are exact; scales and bias follow in float32."""
        return self.linear_of_parts(self.encode_inputs(x, parts), parts, bias, x.dtype)

    def multiplies(self, device: torch.device) -> bool:
        """Where int8 products are faster."""
        return multiplies_int8(device)

    def linear_of_parts(self, x: Parts, weight: Parts, bias: Tensor | None, out: torch.dtype | None) -> Tensor | None:
        """Both in int8, multiplied where that is faster than floats."""
        if x.numbers.dtype != torch.int8:
            return None
        sums = int8_product(x.numbers, weight.numbers.reshape(weight.rows, -1))
        if sums is None:
            return None
        result = scaled_sums(sums, x.tensors["scale"].reshape(-1, 1), self.scale(weight).reshape(-1), bias)
        return result.to(out or x.dtype)

    def fast_convolution(self, x: Tensor, parts: Parts, bias: Tensor | None, kind: Convolution) -> Tensor | None:
        """Two-dimensional ones, without groups; inputs have a scale a picture, for an output mixes all channels."""
        if x.ndim != 4 or len(parts.shape) != 4 or kind.groups != 1:
            return None
        fixed = parts.tensors.get("input_scale")
        last = x.is_contiguous(memory_format=torch.channels_last)
        seen = x.permute(0, 2, 3, 1) if last else x  # in the order of memory
        flat, scale = rounded_rows(seen.reshape(len(x), -1), None if fixed is None else positive(fixed.reshape(1, 1)))
        numbers = flat.view(seen.shape) if last else flat.view(seen.shape).permute(0, 2, 3, 1)
        sums = int8_convolution(numbers, parts.numbers, kind.stride, kind.padding, kind.dilation)
        if sums is None:
            return None
        places = sums.view(-1, sums.shape[-1])
        by_place = scale.repeat_interleave(len(places) // len(x), 0) if fixed is None else scale
        result = scaled_sums(places, by_place, self.scale(parts).reshape(-1), bias).view(sums.shape)
        return result.to(x.dtype).permute(0, 3, 1, 2)


class Int8Smooth(Int8):
    """Inputs and weights share their unevenness before both are rounded."""

    def quantize(self, tensor: Tensor, **options: Any) -> Parts:
        """input_amax: (columns,), the largest inputs of the layer by column; `alpha` (0.5) of their unevenness is moved
        into the weight. Or `pre_quant_scale`, as it comes out of that. Without either nothing is moved.
        """
        input_amax, alpha = options.pop("input_amax", None), options.pop("alpha", 0.5)
        if options.get("pre_quant_scale") is None:
            columns = matrix_shape(tuple(tensor.shape))[1]
            if input_amax is not None and input_amax.numel() != columns:
                raise BadInput(f"{input_amax.numel()} inputs were measured, but the weight has {columns} columns.")
            options["pre_quant_scale"] = (
                torch.ones(columns, device=tensor.device)
                if input_amax is None
                else smoothing(tensor, input_amax.to(tensor.device), alpha)
            )
        return super().quantize(tensor, **options)

    def expected(self, shape: tuple[int, ...], **options: Any) -> Parts:
        """With what inputs are multiplied by."""
        return super().expected(shape, **options).with_tensor(
            "pre_quant_scale", torch.empty(matrix_shape(shape)[1], device="meta")
        )  # fmt: skip


def smoothing(weight: Tensor, input_amax: Tensor, alpha: float) -> Tensor:
    """(columns,), what inputs are multiplied by: 1 / s, s = amax(inputs)^α / amax(weights)^(1 − α) for each column."""
    rows = weight.detach().float().reshape(matrix_shape(tuple(weight.shape)))
    inputs = input_amax.float().reshape(-1).clamp(min=1e-5)
    weights = rows.abs().amax(0).clamp(min=1e-5)
    return weights.pow(1 - alpha) / inputs.pow(alpha)


LAYOUTS = (
    Int8("int8_tensorwise", by_row=False, least_sqnr=38.0),
    Int8("int8_rowwise", by_row=True, least_sqnr=39.5),
    Int8("int8_dynamic", by_row=True, least_sqnr=39.5, activations="dynamic"),
    Int8Smooth("int8_smooth", by_row=True, least_sqnr=39.5, activations="dynamic"),
)
