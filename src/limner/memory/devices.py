"""Devices: which there are, what they can do and how much memory they have free. Probed when asked, never at import."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter

import psutil
import torch

from limner.memory.settings import MemorySettings

MIB = 1024 * 1024
FASTER = 1.25
"""How much faster than float32 a dtype must be on the CPU to be worth its lost digits."""


@dataclass(frozen=True)
class Capabilities:
    """What a device computes well: `bf16` and `fp16` mean faster than float32, not merely possible."""

    kind: str  # cpu, cuda, mps, xpu
    bf16: bool
    fp16: bool


def compute_device(settings: MemorySettings) -> torch.device:
    """Where networks run: an accelerator if there is one and `cpu` is not set."""
    if settings.cpu:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", settings.default_device or 0)
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return torch.device("xpu", settings.default_device or 0)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def capabilities(device: torch.device) -> Capabilities:
    """What `device` computes well."""
    if device.type == "cuda":
        major = torch.cuda.get_device_capability(device)[0]
        return Capabilities("cuda", bf16=major >= 8 or torch.version.hip is not None, fp16=major >= 6)
    if device.type == "cpu":
        return Capabilities("cpu", bf16=has_native_bf16(), fp16=False)
    return Capabilities(device.type, bf16=device.type == "xpu", fp16=True)


@cache
def has_native_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware, and that is faster than float32.

    The instruction alone says too little: AMX and AMD's AVX512-BF16 do twice to ten times float32's work, Intel's
    AVX512-BF16 where AMX is switched off (as some hypervisors do) about half of it. So a CPU that has the instruction
    is measured once a process, for some 40 ms. The two kinds lie so far apart that a busy machine does not blur them.
    """
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"}) and matmul_ratio(torch.bfloat16) > FASTER


def matmul_ratio(dtype: torch.dtype, side: int = 512, rounds: int = 10) -> float:
    """How many times as fast as float32 this CPU multiplies square matrices of `dtype`; the best of several rounds."""
    best = dict.fromkeys((torch.float32, dtype), float("inf"))
    with torch.inference_mode():
        matrices = {one: torch.ones(side, side, dtype=one) for one in best}
        for _ in range(rounds):
            for one, matrix in matrices.items():
                start = perf_counter()
                torch.mm(matrix, matrix)
                best[one] = min(best[one], perf_counter() - start)
    return best[torch.float32] / best[dtype]


@cache
def cpu_flags() -> frozenset[str]:
    """The instruction sets of this CPU as Linux names them; empty where it is not known."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return frozenset({"bf16"}) if platform.machine() == "arm64" and _sysctl_bf16() else frozenset()
    for line in info.read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _sysctl_bf16() -> bool:
    # torch has no optimised bfloat16 kernels on Apple's CPUs, whatever the hardware says.
    return False


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`; on the CPU no more than the control group allows."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + unused)
    if device.type == "xpu":
        total = torch.xpu.get_device_properties(device).total_memory
        return int(total - torch.xpu.memory_allocated(device))
    available = int(psutil.virtual_memory().available)
    limit = _cgroup_available(Path("/sys/fs/cgroup"))
    return available if limit is None else min(available, limit)


def total_memory(device: torch.device) -> int:
    """Bytes of memory that `device` has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    if device.type == "xpu":
        return int(torch.xpu.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def _cgroup_available(root: Path) -> int | None:
    """What a container's limit leaves, or None without one. File pages that can be dropped count as free."""
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        if (root / limit).is_file() and (root / usage).is_file():
            text = (root / limit).read_text().strip()
            if not text.isdecimal() or int(text) > 1 << 60:
                return None
            used = int((root / usage).read_text())
            return max(0, int(text) - used + _reclaimable((root / limit).with_name("memory.stat")))
    return None


def _reclaimable(stat: Path) -> int:
    if not stat.is_file():
        return 0
    values = dict(line.split(maxsplit=1) for line in stat.read_text().splitlines() if " " in line)
    return int(values.get("inactive_file", 0)) + int(values.get("active_file", 0))
