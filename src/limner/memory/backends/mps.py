"""Apple's GPUs through Metal: their memory is the computer's, and their work is one queue."""

from __future__ import annotations

import torch

from limner.errors import LimnerError
from limner.memory.backends import cpu
from limner.memory.backends.peak import Peaks
from limner.memory.backends.protocol import Capabilities, Stream


class MpsBackend:
    """One device."""

    kind = "mps"

    def __init__(self) -> None:
        self._peaks = Peaks(self.used)

    def count(self) -> int:
        """One, where torch was built for Metal and the system has it."""
        return int(torch.backends.mps.is_available())

    def name(self, device: torch.device) -> str:
        """Metal tells torch no name."""
        del device
        return "Apple GPU"

    def capabilities(self, device: torch.device) -> Capabilities:
        """float16."""
        del device
        return Capabilities(self.kind, bf16=False, fp16=True)

    def is_unified(self, device: torch.device) -> bool:
        """Always."""
        del device
        return True

    def total(self, device: torch.device) -> int:
        """Bytes that Metal lets its GPU work with at once: some two thirds of the computer's memory and more."""
        del device
        return int(torch.mps.recommended_max_memory())

    def free(self, device: torch.device) -> int:
        """Bytes that can still be allocated: no more than the computer has free, nor than Metal's bound leaves."""
        available = cpu.BACKEND.free(torch.device("cpu")) + self.held(device)
        return max(0, min(self.total(device) - self.used(device), available))

    def used(self, device: torch.device) -> int:
        """Bytes of live tensors."""
        del device
        return int(torch.mps.current_allocated_memory())

    def held(self, device: torch.device) -> int:
        """Bytes that Metal has given out and that are in no tensor."""
        return max(0, int(torch.mps.driver_allocated_memory()) - self.used(device))

    def trim(self, device: torch.device) -> None:
        """Give back what the allocator holds unused."""
        del device
        torch.mps.empty_cache()

    def cap(self, device: torch.device, nbytes: int) -> None:
        """Let the allocator fail rather than hold more than this."""
        torch.mps.set_per_process_memory_fraction(min(1.0, max(0, nbytes) / self.total(device)))

    def start_peak(self, device: torch.device) -> None:
        """Measure the peak of `used` from here on, by looking at it every 10 ms: torch counts none."""
        self._peaks.start(device)

    def peak(self, device: torch.device) -> int:
        """The highest `used` since `start_peak`; the measurement ends."""
        return self._peaks.peak(device)

    def synchronize(self, device: torch.device) -> None:
        """Wait until the device has done everything it was given."""
        del device
        torch.mps.synchronize()

    def stream(self, device: torch.device) -> Stream | None:
        """None: torch has one queue for Metal."""
        del device
        return None

    def current(self, device: torch.device) -> Stream:
        """Raises LimnerError: `stream` gives none."""
        raise LimnerError(f"{device} has no streams.", why="torch has one queue for Metal.")

    def pinning(self) -> None:
        """None: no copy crosses a bus."""


BACKEND = MpsBackend()
