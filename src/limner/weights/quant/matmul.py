"""Products of matrices in eight bits, where a device computes them faster than in floats; None where it does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.weights.quant.mode import mode

LARGEST = 127
LEAST = torch.finfo(torch.float32).smallest_normal
IN_CACHE = 1 << 18
"""Numbers of four bytes that a core's cache of 1 MiB holds. Half of them take 7 to 14 % longer on two threads."""


@dataclass(frozen=True)
class Compute:
    """What decides whether a device multiplies float8: `torch` and `capability` as (major, minor)."""

    nvidia: bool
    capability: tuple[int, int]
    torch: tuple[int, int]
    windows: bool = False


def supports_fp8(device: Compute) -> bool:
    """Float8 products need NVIDIA's 9.0, or 8.9 with torch 2.3 (2.4 on Windows)."""
    if not device.nvidia or device.capability < (8, 9):
        return False
    return device.capability >= (9, 0) or device.torch >= ((2, 4) if device.windows else (2, 3))


def scales_fp8_rows(device: Compute) -> bool:
    """Scales by row and column within a float8 product, to bfloat16: NVIDIA's 9.0 and later, from torch 2.5."""
    return supports_fp8(device) and device.capability >= (9, 0) and device.torch >= (2, 5)


@cache
def _probed(index: int) -> Compute:
    version = torch.__version__.split(".")
    return Compute(
        nvidia=torch.version.cuda is not None,
        capability=torch.cuda.get_device_capability(index),
        torch=(int(version[0]), int(version[1])),
        windows=sys.platform == "win32",
    )


def _compute(device: torch.device) -> Compute | None:
    if device.type != "cuda":
        return None
    return _probed(device.index if device.index is not None else torch.cuda.current_device())


def multiplies_fp8(device: torch.device) -> bool:
    """Whether float8 matrices are multiplied on `device`; `computing(fp8=…)` overrules what the device says."""
    told = mode().fp8
    if told is not None:
        return told
    found = _compute(device)
    return found is not None and supports_fp8(found)


def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


@cache
def multiplies_int8_on_cpu() -> bool:
    """Whether this processor multiplies int8 faster than float32: torch hands it to oneDNN on x86 only.

    Measured with AVX-512 VNNI, 1 thread, 1280×1280: 4.1 times float32's rate for one row, 3.6 for 1024.
    """
    return _has_onednn() and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def multiplies_int8(device: torch.device) -> bool:
    """Whether int8 matrices are multiplied on `device`, and faster than floats."""
    return device.type == "cuda" or (device.type == "cpu" and multiplies_int8_on_cpu())


def rounded_rows(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """x: (m, k) in int8, and what it was divided by: `scale`, or what fits each row, (m, 1) float32."""
    x = x.float()  # reductions of bfloat16 take four times as long
    fits = scale is None
    if scale is None:
        low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)  # abs() would be written out first
        scale = torch.maximum(high, low.neg_()).div_(LARGEST).clamp_(min=LEAST)  # zeros stay zeros
    inverse = scale.reciprocal()
    if not _in_pieces(x):
        divided = torch.mul(x, inverse).round_()
        return (divided if fits else divided.clamp_(-LARGEST, LARGEST)).to(torch.int8), scale
    numbers = torch.empty(x.shape, dtype=torch.int8)
    for piece in _pieces(x):
        divided = torch.mul(x[piece], inverse if inverse.numel() == 1 else inverse[piece]).round_()
        numbers[piece].copy_(divided if fits else divided.clamp_(-LARGEST, LARGEST))
    return numbers, scale


def scaled_sums(sums: Tensor, scale_x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """sums: (m, n) int32, written over → sums · scale_x · scale + bias, float32.

    scale_x: one or (m, 1); scale: one or (n,). On a processor it is done where the sums lie.
    """
    bias = None if bias is None else bias.float()
    if not _in_pieces(sums):
        result = sums.float().mul_(scale_x)
        return result.mul_(scale) if bias is None else torch.addcmul(bias, result, scale)
    result = sums.view(torch.float32)
    for piece in _pieces(sums):
        part = result[piece].copy_(sums[piece])
        part.mul_(scale_x if scale_x.numel() == 1 else scale_x[piece])
        if bias is None:
            part.mul_(scale)
        else:
            torch.addcmul(bias, part, scale, out=part)
    return result


def _in_pieces(matrix: Tensor) -> bool:
    """Whether a processor computes much of it, operation by operation: then rows are taken a cache's worth at a time.

    Each operation would read and write all of it otherwise, and new memory costs more than the arithmetic.
    """
    return matrix.device.type == "cpu" and matrix.numel() > IN_CACHE and not torch.compiler.is_compiling()


def _pieces(matrix: Tensor) -> Iterator[slice]:
    rows = max(1, IN_CACHE // matrix.shape[1])
    for start in range(0, matrix.shape[0], rows):
        yield slice(start, start + rows)


def int8_product(x: Tensor, weight: Tensor) -> Tensor | None:
    """x: (m, k) int8, weight: (n, k) int8 → x @ weightᵀ, (m, n) int32; None where floats are faster."""
    if x.shape[1] < 2:
        return None  # torch 2.13 gives numbers out of nowhere for one column
    if not multiplies_int8(x.device):
        return None
    if x.device.type == "cpu":
        return torch._int_mm(x, weight.t())
    m, (n, k) = x.shape[0], weight.shape
    if k % 8 or n % 8:
        return None
    rows = max(m + -m % 8, 24)  # cuBLASLt takes more than 16 rows, in eights
    return torch._int_mm(F.pad(x, (0, 0, 0, rows - m)) if rows != m else x, weight.t())[:m]


def fp8_product(x: Tensor, scale_x: Tensor, weight: Tensor, scale: Tensor, out: torch.dtype) -> Tensor | None:
    """x: (m, k), weight: (n, k), both float8 → (scale_x · x) @ (scale · weight)ᵀ in `out`; None where floats are used.

    scale_x: one number or (m, 1); scale: one or (n, 1). e5m2 is multiplied by e4m3 only.
    """
    (m, k), n = x.shape, weight.shape[0]
    both_e5m2 = x.dtype == weight.dtype == torch.float8_e5m2
    if not multiplies_fp8(x.device) or k % 16 or n % 16 or m == 0 or both_e5m2:
        return None
    single = scale_x.numel() == 1 and scale.numel() == 1
    if single:
        scales = scale_x.float().reshape(()), scale.float().reshape(())
    elif out == torch.bfloat16 and (found := _compute(x.device)) is not None and scales_fp8_rows(found):
        scales = _column(scale_x, m), _column(scale, n).t()
    else:  # multiplied outside; the sums are float32 either way
        one = torch.ones((), device=x.device)
        sums = _scaled_mm(x, weight, one, one, torch.float32)
        return (sums * scale_x.reshape(-1, 1) * scale.reshape(1, -1)).to(out)
    return _scaled_mm(x, weight, *scales, out)


def _column(scale: Tensor, rows: int) -> Tensor:
    return scale.float().reshape(-1, 1).expand(rows, 1).contiguous()


def _scaled_mm(x: Tensor, weight: Tensor, scale_x: Tensor, scale: Tensor, out: torch.dtype) -> Tensor:
    product = torch._scaled_mm(x.contiguous(), weight.t(), scale_a=scale_x, scale_b=scale, out_dtype=out)
    return product[0] if isinstance(product, tuple) else product  # torch before 2.5: with the largest number


def fp8_rounded(x: Tensor, scale: Tensor | None, by_row: bool) -> tuple[Tensor, Tensor]:
    """x: (m, k) in e4m3, and what it was divided by: as near to `scale` as x's dtype has it, or what fits all, or each
    row. In few passes over x, in its own dtype where that has float32's range.
    """
    largest = torch.finfo(torch.float8_e4m3fn).max
    x = x if x.dtype == torch.bfloat16 else x.float()
    fits = scale is None
    if scale is None:
        amax = torch.linalg.vector_norm(x, float("inf"), 1, keepdim=True) if by_row else x.abs().amax()
        scale = amax.float() / largest
    # What x is multiplied by is rounded to its dtype, so that is what the scale has to undo.
    inverse = (1 / scale.clamp(min=LEAST)).to(x.dtype)
    numbers = x * inverse
    return (numbers if fits else numbers.clamp_(-largest, largest)).to(torch.float8_e4m3fn), 1 / inverse.float()


def patches(
    x: Tensor, size: tuple[int, int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """What a convolution sees at each place. x: (batch, height, width, in) → (batch, height', width', h · w · in)."""
    if size == (1, 1) and tuple(stride) == (1, 1) and not any(padding):
        return x.contiguous()
    x = F.pad(x, (0, 0, padding[1], padding[1], padding[0], padding[0])).contiguous()
    (batch, height, width, channels), (b, y, z, c) = x.shape, x.stride()
    across = [
        (whole - dilation[axis] * (size[axis] - 1) - 1) // stride[axis] + 1
        for axis, whole in enumerate((height, width))
    ]
    seen = x.as_strided(
        (batch, *across, *size, channels), (b, y * stride[0], z * stride[1], y * dilation[0], z * dilation[1], c)
    )
    return seen.reshape(batch, *across, -1).contiguous()


def int8_convolution(
    x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor | None:
    """x: (batch, height, width, in) int8, weight: (out, in, h, w) int8 → (batch, height', width', out) int32.

    None where floats are faster. It is one product of what the kernel sees at each place. Measured with AVX-512 VNNI, 1
    thread, 3×3, 2 pictures, rounding and scales included: 320 channels of 32×32 at 2.6 times float32's rate, 1280
    of 8×8 at 6.1. oneDNN's own quantized convolution is as fast, but wants the weight in an order of its own, and to
    bring it into that takes as long as the convolution or longer.
    """
    if x.device.type != "cpu" or not multiplies_int8_on_cpu():
        return None
    seen = patches(x, (weight.shape[2], weight.shape[3]), stride, padding, dilation)
    rows = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)  # a view of a weight that is kept channels last
    batch, height, width, length = seen.shape
    sums = int8_product(seen.view(-1, length), rows)
    return None if sums is None else sums.view(batch, height, width, -1)
