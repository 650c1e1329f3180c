"""How much of a device's memory this process may have, and how much of that weights get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from limner.memory import loading, policy
from limner.memory.backends.protocol import Backend
from limner.memory.settings import MemorySettings

GIB = 1024**3
RESERVED = 0.4
"""GB of a device that are left to other programs where nothing is said."""
LIBRARIES = 64 * 1024**2
"""Bytes of RAM below a cap that are left to modules, threads and scratch memory that come while something runs."""
SCRATCH = 0.03
"""Share of a cap on RAM that is left besides: what multiplications pack, and gaps of malloc's. benchmarks/full_size.py
exceeded a cap of 12,842 MB by 138 without it."""
INFERENCE = int(0.8 * GIB)
"""Bytes that are left for computing where more would be required than there is."""
EVERYTHING = 1 << 60
"""Bytes that no network has."""
RATIO = 0.4
"""Share of the memory that weights get at least, on devices where streaming is slow."""


def reserved_bytes(settings: MemorySettings) -> int:
    """Bytes of a device that are left to other programs: as a pack has said, else as the settings do."""
    wanted = settings.reserve_vram
    return loading.RESERVED.get("EXTRA_RESERVED_VRAM", int((RESERVED if wanted is None else wanted) * GIB))


@dataclass(frozen=True)
class Room:
    """A device's memory under some settings, at one moment. measure: in place of the backend's own `free`."""

    backend: Backend
    device: torch.device
    settings: MemorySettings
    measure: Callable[[torch.device], int] | None = None

    @property
    def is_cpu(self) -> bool:
        """Whether it is the computer's own memory."""
        return self.device.type == "cpu" and self.backend.kind == "cpu"

    @cached_property
    def cap(self) -> int | None:
        """Bytes that the settings allow this process; None where they say nothing."""
        size = self.settings.max_ram if self.is_cpu else self.settings.max_vram
        return None if size is None else size.of(self.backend.total(self.device))

    @cached_property
    def free(self) -> int:
        """Bytes that can be taken now; negative where more is in use than the settings allow."""
        reserved = 0
        if not self.is_cpu:
            reserved = reserved_bytes(self.settings)
        free = (self.measure or self.backend.free)(self.device) - reserved
        if self.cap is None:
            return free
        left = LIBRARIES + int(SCRATCH * self.cap) if self.is_cpu else 0
        return min(free, self.cap - self.backend.used(self.device) - left)

    @property
    def streams_all(self) -> bool:
        """Whether no weights are to stay: `novram`."""
        return self.settings.novram and not self.is_cpu

    @property
    def keeps_whole(self) -> bool:
        """Whether a network is there as a whole, and stays so while it computes: `gpu_only` and `highvram`."""
        return (self.settings.gpu_only or self.settings.highvram) and not self.is_cpu

    @property
    def keeps_all(self) -> bool:
        """Whether idle networks stay whatever others want: `gpu_only`. A cap, or memory that is out, is stronger."""
        return self.settings.gpu_only and self.cap is None and not self.is_cpu

    def weights_target(self, free: int, working: int, least: int) -> int:
        """Bytes of a network's weights that should be on the device. free: with those that are there.

        working: that the computation would like, least: that it needs. Nothing below what it needs is given away
        where the settings name a cap; otherwise the needs are estimates, and weights get their share.
        """
        if self.streams_all:
            return 0
        if self.keeps_whole:
            return EVERYTHING if self.cap is None else free - least
        if self.settings.lowvram and not self.is_cpu:
            return max(0, (free - working) // 2)
        if free >= working:
            return free - working
        ratio = 0.0 if self.cap is not None or self.backend.stream(self.device) is not None else RATIO
        return policy.weights_target(free, least, INFERENCE, ratio, floor=0)
