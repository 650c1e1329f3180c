"""What kinds share whose torch module is made like `torch.cuda`: a caching allocator, its statistics, streams."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from limner.memory.backends.protocol import Event, Pinning, Stream


@dataclass(frozen=True)
class TorchStream:
    """A stream of torch. Equal to another view of the same one. native: torch's own, for `Tensor.record_stream`."""

    module: Any
    native: Any

    def entered(self) -> AbstractContextManager[object]:
        """What is enqueued inside the block goes to this stream."""
        entered: AbstractContextManager[object] = self.module.stream(self.native)
        return entered

    def record(self) -> Event:
        """The point that is reached when everything enqueued so far is done."""
        event: Event = self.native.record_event()
        return event

    def wait(self, event: Event) -> None:
        """What is enqueued from here on begins after the event."""
        self.native.wait_event(event)


class CachingBackend:
    """All of a `Backend` but what the device computes well. A kind gives its name and, when asked, its torch module."""

    kind: str

    @property
    def module(self) -> Any:
        """`torch.cuda`, or what is made like it."""
        return getattr(torch, self.kind)

    def count(self) -> int:
        """How many devices can be used; 0 where torch or the driver has none."""
        return int(self.module.device_count()) if self.module.is_available() else 0

    def name(self, device: torch.device) -> str:
        """The driver's name of it."""
        return str(self.module.get_device_name(device))

    def is_unified(self, device: torch.device) -> bool:
        """Whether the driver says that it is part of the processor."""
        return bool(getattr(self.module.get_device_properties(device), "is_integrated", False))

    def info(self, device: torch.device) -> tuple[int, int]:
        """Bytes that the driver has free, and in all."""
        free, total = self.module.mem_get_info(device)
        return int(free), int(total)

    def total(self, device: torch.device) -> int:
        """Bytes of memory that it has."""
        return self.info(device)[1]

    def free(self, device: torch.device) -> int:
        """Bytes that can still be allocated: the driver's, and what the allocator holds unused."""
        return self.info(device)[0] + self.held(device)

    def used(self, device: torch.device) -> int:
        """Bytes of live tensors."""
        return int(self.module.memory_allocated(device))

    def held(self, device: torch.device) -> int:
        """Bytes that the allocator holds unused."""
        return max(0, int(self.module.memory_reserved(device)) - self.used(device))

    def trim(self, device: torch.device) -> None:
        """Give back what the allocator holds unused, on all devices of the kind: torch knows no other way."""
        del device
        self.module.empty_cache()

    def cap(self, device: torch.device, nbytes: int) -> None:
        """Let the allocator fail rather than hold more than this, where torch is new enough for it."""
        setter = getattr(self.module, "set_per_process_memory_fraction", None)
        if setter is not None:
            setter(min(1.0, max(0, nbytes) / self.total(device)), device)

    def start_peak(self, device: torch.device) -> None:
        """Let the allocator count its peak from here on."""
        self.module.reset_peak_memory_stats(device)

    def peak(self, device: torch.device) -> int:
        """The highest `used` since `start_peak`."""
        return int(self.module.max_memory_allocated(device))

    def synchronize(self, device: torch.device) -> None:
        """Wait until the device has done everything it was given."""
        self.module.synchronize(device)

    def stream(self, device: torch.device) -> Stream | None:
        """A new stream for copies."""
        return TorchStream(self.module, self.module.Stream(device=device))

    def current(self, device: torch.device) -> Stream:
        """The stream that computation is enqueued on now."""
        return TorchStream(self.module, self.module.current_stream(device))

    def pinning(self) -> Pinning | None:
        """None: torch offers no registration of host memory for the kind."""
        return None
