"""Codes to numbers by tables, as fast as a processor reads memory.

Torch's gathers cost a few nanoseconds an element whatever the element is, so an element is made of several numbers: two
float32 together are an int64, as are eight bytes. Where operations are compiled or on another device, the table is
indexed in the plain way.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from limner.weights.quant.rounding import table

Values = tuple[float, ...]


def nibbles_as(packed: Tensor, values: Values) -> Tensor:
    """packed: (rows, n) uint8 → (rows, 2 n) float32: values[low bits], values[high bits] of each; 16 values."""
    if _plainly(packed):
        halves = torch.stack((packed & 0x0F, packed >> 4), -1).flatten(-2)
        return table(values, packed.device)[halves.int()]
    return _gathered(_of_nibbles(values), packed).view(torch.float32).view(packed.shape[0], -1)


def bytes_as(codes: Tensor, values: Values) -> Tensor:
    """codes: uint8 of any shape → values[code], float32 of the same; up to 256 values."""
    if _plainly(codes) or codes.numel() % 2:
        return table(values, codes.device)[codes.int()]
    couples = codes.contiguous().view(-1).clone() if codes.storage_offset() % 2 else codes.contiguous().view(-1)
    return _gathered(_of_couples(values), couples.view(torch.uint16)).view(torch.float32).view(codes.shape)


def float8_as_float(numbers: Tensor) -> Tensor:
    """Eight-bit floats → float32, exactly; torch's own conversion takes five times as long on a processor."""
    return numbers.float() if _plainly(numbers) else bytes_as(numbers.view(torch.uint8), _of_float8(numbers.dtype))


def bits_of(packed: Tensor) -> Tensor:
    """packed: (rows, n) uint8 → (rows, 8 n) uint8: its bits, the lowest first."""
    if _plainly(packed):
        return (packed[:, :, None] >> table(range(8), packed.device, torch.uint8) & 1).flatten(1)
    return _gathered(_of_bits(), packed).view(torch.uint8).view(packed.shape[0], -1)


def _plainly(codes: Tensor) -> bool:
    return codes.device.type != "cpu" or torch.compiler.is_compiling()


def _gathered(table: Tensor, codes: Tensor) -> Tensor:
    return table.index_select(0, codes.reshape(-1).int())


# Tables outlive the passes that first ask for them, so they are normal tensors even where those infer.


@lru_cache(64)
def _of_nibbles(values: Values) -> Tensor:
    with torch.inference_mode(False):
        numbers = torch.tensor(values)
        byte = torch.arange(256)
        return torch.stack((numbers[byte & 15], numbers[byte >> 4]), 1).view(torch.int64).flatten()


@lru_cache(16)
def _of_couples(values: Values) -> Tensor:
    with torch.inference_mode(False):
        numbers = torch.zeros(256)
        numbers[: len(values)] = torch.tensor(values)
        couple = torch.arange(1 << 16)
        return torch.stack((numbers[couple & 255], numbers[couple >> 8]), 1).view(torch.int64).flatten()


@lru_cache(1)
def _of_bits() -> Tensor:
    with torch.inference_mode(False):
        bits = torch.arange(256)[:, None] >> torch.arange(8) & 1
        return bits.to(torch.uint8).view(torch.int64).flatten()


@lru_cache(8)
def _of_float8(dtype: torch.dtype) -> Values:
    with torch.inference_mode(False):
        return tuple(torch.arange(256, dtype=torch.uint8).view(dtype).float().tolist())
