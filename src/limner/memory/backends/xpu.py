"""Intel's GPUs, through torch alone."""

from __future__ import annotations

import torch

from limner.memory.backends.caching import CachingBackend
from limner.memory.backends.protocol import Capabilities


class XpuBackend(CachingBackend):
    """SYCL devices."""

    kind = "xpu"

    def capabilities(self, device: torch.device) -> Capabilities:
        """Both half precisions."""
        del device
        return Capabilities(self.kind, bf16=True, fp16=True)

    def info(self, device: torch.device) -> tuple[int, int]:
        """Bytes free and in all. Some drivers tell no free memory, nor does torch before 2.6: then all but our own."""
        try:
            return super().info(device)
        except (AttributeError, RuntimeError):
            total = int(self.module.get_device_properties(device).total_memory)
            return max(0, total - int(self.module.memory_reserved(device))), total


BACKEND = XpuBackend()
