"""How near a quantized tensor is to what it was."""

from __future__ import annotations

from torch import Tensor


def sqnr(exact: Tensor, approximate: Tensor) -> float:
    """Signal to quantization noise, dB: 10 · log10(Σ exact² / Σ (exact − approximate)²); infinite for equal ones."""
    exact = exact.detach().double()
    noise = (exact - approximate.detach().to(exact.device).double()).square().sum()
    signal = exact.square().sum()
    return float(10 * (signal / noise).log10()) if noise > 0 else float("inf")
