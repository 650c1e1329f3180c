"""In which dtype a network's weights are kept and in which it computes: a pure function of flags and capabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from limner.memory.devices import Capabilities
from limner.memory.settings import MemorySettings


@dataclass(frozen=True)
class Precision:
    """storage: of the weights, None for as they are in the file. compute: of the activations."""

    storage: torch.dtype | None
    compute: torch.dtype


F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
UNET_ORDER = (F16, BF16, F32)
VAE_ORDER = (BF16, F32)


def unet_precision(
    settings: MemorySettings, device: Capabilities, supported: Sequence[torch.dtype] = UNET_ORDER
) -> Precision:
    """For a diffusion model. supported: the family's dtypes, the preferred first."""
    compute = _fastest(device, supported)
    if settings.fp8_e4m3fn_unet:
        return Precision(torch.float8_e4m3fn, compute)
    if settings.fp8_e5m2_unet:
        return Precision(torch.float8_e5m2, compute)
    if settings.fp64_unet:
        return Precision(torch.float64, torch.float64)
    if settings.fp32_unet:
        return Precision(F32, F32)
    if settings.bf16_unet:
        return Precision(BF16, BF16)
    if settings.fp16_unet or settings.force_fp16:
        return _fp16(device)
    if settings.force_fp32:
        return Precision(F32, F32)
    return Precision(compute, compute)


def vae_precision(
    settings: MemorySettings, device: Capabilities, supported: Sequence[torch.dtype] = VAE_ORDER
) -> Precision:
    """For an autoencoder: float16 overflows in it, so only when asked for."""
    if settings.fp32_vae:
        return Precision(F32, F32)
    if settings.bf16_vae:
        return Precision(BF16, BF16)
    if settings.fp16_vae:
        return _fp16(device)
    if settings.force_fp32:
        return Precision(F32, F32)
    compute = _fastest(device, supported)
    return Precision(compute, compute)


def text_precision(settings: MemorySettings, device: Capabilities) -> Precision:
    """For a text encoder, which runs once a prompt: on the CPU its weights stay in the file, computed in float32."""
    if settings.fp8_e4m3fn_text_enc:
        return Precision(torch.float8_e4m3fn, F32)
    if settings.fp8_e5m2_text_enc:
        return Precision(torch.float8_e5m2, F32)
    if settings.fp32_text_enc or settings.force_fp32:
        return Precision(F32, F32)
    if settings.bf16_text_enc:
        return Precision(BF16, F32 if device.kind == "cpu" and not device.bf16 else BF16)
    if settings.fp16_text_enc or settings.force_fp16 or (device.kind != "cpu" and device.fp16):
        return Precision(F16, F32 if device.kind == "cpu" else F16)
    return Precision(None, F32)


def _fastest(device: Capabilities, supported: Sequence[torch.dtype]) -> torch.dtype:
    for dtype in supported:
        if (dtype == BF16 and device.bf16) or (dtype == F16 and device.fp16):
            return dtype
    return F32


def _fp16(device: Capabilities) -> Precision:
    # CPUs have no float16 arithmetic worth the name; the weights are halved all the same.
    return Precision(F16, F32 if device.kind == "cpu" else F16)
