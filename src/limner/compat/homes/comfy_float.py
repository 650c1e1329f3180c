"""comfy.float, comfy.rmsnorm, comfy.checkpoint_pickle: rounding at random, one normalization, one reader."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def stochastic_rounding(value: Tensor, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Numbers in a smaller dtype, rounded up or down at random so that they are right on average."""
    if dtype in (torch.float32, torch.float64):
        return value.to(dtype)
    if dtype in (torch.float16, torch.bfloat16) or not str(dtype).startswith("torch.float8"):
        return value.to(dtype)
    generator = torch.Generator(device=value.device).manual_seed(seed)
    return manual_stochastic_round_to_float8(value, dtype, generator).to(dtype)


def _layout(dtype: torch.dtype) -> tuple[int, int]:
    """(bits of the mantissa, bias of the exponent)."""
    return (3, 7) if dtype == torch.float8_e4m3fn else (2, 15)


def calc_mantissa(
    abs_x: Tensor,
    exponent: Tensor,
    normal_mask: Tensor,
    MANTISSA_BITS: int,  # noqa: N803 - the published name
    EXPONENT_BIAS: int,  # noqa: N803
    generator: Any = None,
) -> Tensor:
    """The mantissa, rounded at random."""
    steps = 2**MANTISSA_BITS
    scaled = torch.where(
        normal_mask,
        (abs_x / 2.0 ** (exponent - EXPONENT_BIAS) - 1.0) * steps,
        abs_x / 2.0 ** (-EXPONENT_BIAS + 1 - MANTISSA_BITS),
    )
    rounded: Tensor = (scaled + torch.rand(scaled.shape, generator=generator, device=scaled.device)).floor() / steps
    return rounded


def manual_stochastic_round_to_float8(x: Tensor, dtype: torch.dtype, generator: Any = None) -> Tensor:
    """Numbers that eight bits can hold, rounded at random, in the input's dtype. Raises ValueError for other dtypes."""
    if dtype not in (torch.float8_e4m3fn, torch.float8_e5m2):
        raise ValueError(f"Unsupported dtype {dtype}.")
    bits, bias = _layout(dtype)
    size = x.abs().float()
    exponent = (size.log2().floor() + bias).clamp(0, 2 ** (7 - bits) - 1)
    normal = exponent != 0
    mantissa = calc_mantissa(size, exponent, normal, bits, bias, generator)
    rounded = torch.where(normal, 2.0 ** (exponent - bias) * (1 + mantissa), 2.0 ** (1 - bias) * mantissa)
    limit = torch.finfo(dtype).max
    return (x.sign().float() * rounded).clamp(-limit, limit).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float | None = 1e-6) -> Tensor:
    """x over its root mean square along the last axis, times a weight."""
    shape = x.shape[-1:] if weight is None else weight.shape
    return F.rms_norm(x, tuple(shape), None if weight is None else weight.to(x), eps)


def load(*args: Any, **kwargs: Any) -> Any:
    """The objects of a pickle that holds only tensors and numbers: nothing in it is run."""
    kwargs.pop("pickle_module", None)
    return torch.load(*args, **{**kwargs, "weights_only": True})
