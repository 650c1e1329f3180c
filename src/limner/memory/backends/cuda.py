"""NVIDIA's GPUs through CUDA, and AMD's through ROCm, which torch shows under the same names."""

from __future__ import annotations

import logging
from typing import Any

import torch

from limner.memory.backends import cpu
from limner.memory.backends.caching import CachingBackend
from limner.memory.backends.protocol import Capabilities, Pinning

_log = logging.getLogger(__name__)

PORTABLE = 1
"""cudaHostRegisterPortable: the pages are locked for every device, not only for the current one."""
WITHOUT_BF16 = ("gfx8", "gfx900", "gfx902", "gfx906", "gfx909", "gfx90c", "gfx10")
"""Beginnings of the names of AMD's architectures that take bfloat16 apart in software."""


class CudaBackend(CachingBackend):
    """CUDA, or ROCm where torch was built for it."""

    kind = "cuda"

    def capabilities(self, device: torch.device) -> Capabilities:
        """bfloat16 from Ampere and AMD's matrix cores on, float16 from Pascal on."""
        if torch.version.hip is not None:
            architecture = str(getattr(torch.cuda.get_device_properties(device), "gcnArchName", ""))
            return Capabilities(self.kind, bf16=not architecture.startswith(WITHOUT_BF16), fp16=True)
        major = torch.cuda.get_device_capability(device)[0]
        return Capabilities(self.kind, bf16=major >= 8, fp16=major >= 6)

    def info(self, device: torch.device) -> tuple[int, int]:
        """Bytes that the driver has free, and in all.

        An integrated GPU of NVIDIA's takes from the computer's memory, and its driver does not count file pages that
        the system would drop. AMD's is given a part of its own, of which the driver knows best.
        """
        free, total = super().info(device)
        if torch.version.hip is None and self.is_unified(device):
            free = max(free, min(total, cpu.BACKEND.free(torch.device("cpu"))))
        return free, total

    def pinning(self) -> Pinning | None:
        """Through the CUDA runtime, or ROCm's in its place."""
        return CudaPinning() if self.count() else None


class CudaPinning:
    """Page-locking by the CUDA runtime that torch was built with."""

    def register(self, pointer: int, nbytes: int) -> int:
        """Lock the pages of a span; 0 is success."""
        return _number(_runtime().cudaHostRegister(pointer, nbytes, PORTABLE))

    def unregister(self, pointer: int) -> int:
        """Unlock the pages of a registered span; 0 is success."""
        return _number(_runtime().cudaHostUnregister(pointer))

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor's memory is page-locked, by whomever."""
        return tensor.is_pinned()

    def clear_error(self) -> None:
        """Let a kernel that computes nothing of use meet the error, so that none that matters does."""
        try:
            torch.zeros(1, device="cuda").add_(1)
            torch.cuda.synchronize()
        except RuntimeError as error:
            _log.debug("An error of the device was taken out of its queue: %s", error)


BACKEND = CudaBackend()


def _runtime() -> Any:
    module: Any = torch.cuda
    return module.cudart()


def _number(result: Any) -> int:
    """torch gives the runtime's results as members of an enumeration."""
    return int(getattr(result, "value", result))
