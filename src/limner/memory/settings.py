"""The settings that memory reads, by the names of the command line's flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class MemorySettings(Protocol):
    """Any object with these attributes; `limner.settings.Settings` is one."""

    @property
    def cpu(self) -> bool: ...  # noqa: D102
    @property
    def cpu_vae(self) -> bool: ...  # noqa: D102
    @property
    def force_fp32(self) -> bool: ...  # noqa: D102
    @property
    def force_fp16(self) -> bool: ...  # noqa: D102
    @property
    def fp64_unet(self) -> bool: ...  # noqa: D102
    @property
    def fp32_unet(self) -> bool: ...  # noqa: D102
    @property
    def bf16_unet(self) -> bool: ...  # noqa: D102
    @property
    def fp16_unet(self) -> bool: ...  # noqa: D102
    @property
    def fp8_e4m3fn_unet(self) -> bool: ...  # noqa: D102
    @property
    def fp8_e5m2_unet(self) -> bool: ...  # noqa: D102
    @property
    def fp32_vae(self) -> bool: ...  # noqa: D102
    @property
    def bf16_vae(self) -> bool: ...  # noqa: D102
    @property
    def fp16_vae(self) -> bool: ...  # noqa: D102
    @property
    def fp32_text_enc(self) -> bool: ...  # noqa: D102
    @property
    def bf16_text_enc(self) -> bool: ...  # noqa: D102
    @property
    def fp16_text_enc(self) -> bool: ...  # noqa: D102
    @property
    def fp8_e4m3fn_text_enc(self) -> bool: ...  # noqa: D102
    @property
    def fp8_e5m2_text_enc(self) -> bool: ...  # noqa: D102
    @property
    def force_channels_last(self) -> bool: ...  # noqa: D102
    @property
    def reserve_vram(self) -> float | None: ...  # noqa: D102
    @property
    def disable_mmap(self) -> bool: ...  # noqa: D102
    @property
    def mmap_torch_files(self) -> bool: ...  # noqa: D102
    @property
    def disable_smart_memory(self) -> bool: ...  # noqa: D102
    @property
    def default_device(self) -> int | None: ...  # noqa: D102


@dataclass(frozen=True)
class DefaultSettings:
    """No flag given: what library use and tests start from."""

    cpu: bool = False
    cpu_vae: bool = False
    force_fp32: bool = False
    force_fp16: bool = False
    fp64_unet: bool = False
    fp32_unet: bool = False
    bf16_unet: bool = False
    fp16_unet: bool = False
    fp8_e4m3fn_unet: bool = False
    fp8_e5m2_unet: bool = False
    fp32_vae: bool = False
    bf16_vae: bool = False
    fp16_vae: bool = False
    fp32_text_enc: bool = False
    bf16_text_enc: bool = False
    fp16_text_enc: bool = False
    fp8_e4m3fn_text_enc: bool = False
    fp8_e5m2_text_enc: bool = False
    force_channels_last: bool = False
    reserve_vram: float | None = None
    disable_mmap: bool = False
    mmap_torch_files: bool = False
    disable_smart_memory: bool = False
    default_device: int | None = None
