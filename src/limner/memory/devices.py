"""Devices: where networks run, what a device can do and how much memory it has free. Probed when first asked.

What differs from kind to kind is in `backends`, one file a kind.
"""

from __future__ import annotations

import torch

from limner.errors import BadInput, OutOfMemory
from limner.memory import backends
from limner.memory.backends.cpu import cpu_flags, has_native_bf16, matmul_ratio
from limner.memory.backends.protocol import Capabilities
from limner.memory.settings import MemorySettings

__all__ = [
    "MIB",
    "Capabilities",
    "capabilities",
    "compute_device",
    "cpu_flags",
    "free_memory",
    "has_native_bf16",
    "is_out_of_memory",
    "matmul_ratio",
    "total_memory",
]

MIB = 1024 * 1024


def compute_device(settings: MemorySettings) -> torch.device:
    """Where networks run: an accelerator if there is one and `cpu` is not set; of several, `default_device`.

    Raises BadInput for a number that no accelerator has.
    """
    found = [] if settings.cpu else backends.accelerators()
    if not found:
        return torch.device("cpu")
    backend, number = found[0], settings.default_device or 0
    if not 0 <= number < backend.count():
        there = ", ".join(f"{i} ({backend.name(torch.device(backend.kind, i))})" for i in range(backend.count()))
        raise BadInput(f"default_device is {number}: there is no such device.", do=f"There are {there}.")
    return torch.device(backend.kind, number)


def capabilities(device: torch.device) -> Capabilities:
    """What `device` computes well."""
    return backends.of(device).capabilities(device)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`; on the CPU no more than the control group allows."""
    return backends.of(device).free(device)


def total_memory(device: torch.device) -> int:
    """Bytes of memory that `device` has, or that the control group allows."""
    return backends.of(device).total(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory of a device. The CPU's allocator says so in words only."""
    return isinstance(error, (OutOfMemory, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )
