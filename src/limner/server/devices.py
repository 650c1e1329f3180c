"""What computes here, told without importing torch: the processor, or NVIDIA's GPU as its driver describes it."""

from __future__ import annotations

import ctypes
import platform
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from limner.settings import Settings


class _Memory(ctypes.Structure):
    """NVML's `nvmlMemory_t`: bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def describe_devices(settings: Settings) -> list[dict[str, Any]]:
    """The one device that prompts run on, as `/system_stats` tells it; memory in bytes.

    The GPU's numbers are those of the whole card: what torch keeps of it is known only once torch runs.
    """
    chosen = settings.cuda_device if settings.cuda_device is not None else settings.default_device
    gpu = None if settings.cpu else nvidia_gpu(chosen or 0)
    if gpu is None:
        memory = psutil.virtual_memory()
        return [_device("cpu", "cpu", None, memory.total, memory.available)]
    name, total, free = gpu
    allocator = "cudaMallocAsync" if settings.cuda_malloc else "native"
    return [_device(f"cuda:0 {name} : {allocator}", "cuda", 0, total, free)]


def _device(name: str, kind: str, index: int | None, total: int, free: int) -> dict[str, Any]:
    memory = {"vram_total": total, "vram_free": free, "torch_vram_total": total, "torch_vram_free": free}
    return {"name": name, "type": kind, "index": index, **memory}


def nvidia_gpu(index: int) -> tuple[str, int, int] | None:
    """Name, bytes in all and bytes free of a GPU, from the driver's management library; None when there is none."""
    try:
        nvml = ctypes.CDLL("nvml.dll" if platform.system() == "Windows" else "libnvidia-ml.so.1")
        if nvml.nvmlInit_v2() != 0:
            return None
    except (OSError, AttributeError):
        return None
    handle = ctypes.c_void_p()
    name = ctypes.create_string_buffer(96)
    memory = _Memory()
    try:
        found = (
            nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) == 0
            and nvml.nvmlDeviceGetName(handle, name, ctypes.c_uint(len(name))) == 0
            and nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0
        )
    finally:
        nvml.nvmlShutdown()
    return (name.value.decode(errors="replace"), memory.total, memory.free) if found else None
