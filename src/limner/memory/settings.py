"""The settings that memory reads, by the names of the command line's flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from limner.memory.sizes import Size


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
    def gpu_only(self) -> bool: ...  # noqa: D102
    @property
    def highvram(self) -> bool: ...  # noqa: D102
    @property
    def normalvram(self) -> bool: ...  # noqa: D102
    @property
    def lowvram(self) -> bool: ...  # noqa: D102
    @property
    def novram(self) -> bool: ...  # noqa: D102
    @property
    def reserve_vram(self) -> float | None: ...  # noqa: D102
    @property
    def max_vram(self) -> Size | None: ...  # noqa: D102
    @property
    def max_ram(self) -> Size | None: ...  # noqa: D102
    @property
    def idle_unload(self) -> float: ...  # noqa: D102
    @property
    def async_offload(self) -> int | None: ...  # noqa: D102
    @property
    def disable_async_offload(self) -> bool: ...  # noqa: D102
    @property
    def disable_pinned_memory(self) -> bool: ...  # noqa: D102
    @property
    def pinned_memory_limit(self) -> Size | None: ...  # noqa: D102
    @property
    def force_non_blocking(self) -> bool: ...  # noqa: D102
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
    gpu_only: bool = False
    highvram: bool = False
    normalvram: bool = False
    lowvram: bool = False
    novram: bool = False
    reserve_vram: float | None = None
    max_vram: Size | None = None
    max_ram: Size | None = None
    idle_unload: float = 0.0
    async_offload: int | None = None
    disable_async_offload: bool = False
    disable_pinned_memory: bool = False
    pinned_memory_limit: Size | None = None
    force_non_blocking: bool = False
    disable_mmap: bool = False
    mmap_torch_files: bool = False
    disable_smart_memory: bool = False
    default_device: int | None = None
