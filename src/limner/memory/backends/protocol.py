"""What a kind of device must say and do: the whole of what memory knows about hardware."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class Capabilities:
    """What a device computes well: `bf16` and `fp16` mean faster than float32, not merely possible."""

    kind: str  # cpu, cuda, mps, xpu, npu
    bf16: bool
    fp16: bool


class Event(Protocol):
    """A point in what a stream has been given to do."""


class Stream(Protocol):
    """A queue of a device's work: in order within one, unordered between two unless one waits for the other."""

    def entered(self) -> AbstractContextManager[object]:
        """What is enqueued inside the block goes to this stream."""

    def record(self) -> Event:
        """The point that is reached when everything enqueued so far is done."""

    def wait(self, event: Event) -> None:
        """What is enqueued from here on begins after the event. The caller's thread does not wait."""


class Pinning(Protocol):
    """Page-locking of host memory by a device's driver. The results are the driver's: 0 is success."""

    def register(self, pointer: int, nbytes: int) -> int:
        """Lock the pages of a span."""

    def unregister(self, pointer: int) -> int:
        """Unlock the pages of a registered span."""

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor's memory is page-locked, by whomever."""

    def clear_error(self) -> None:
        """Take the error of a failed registration out of the device's queue, where a later operation would meet it."""


class Backend(Protocol):
    """One kind of device. Made once a process, asks the hardware only when it is asked itself.

    kind: torch's name of the device type. Every method takes a device of that kind.
    """

    @property
    def kind(self) -> str:
        """torch's name of the device type."""

    def count(self) -> int:
        """How many devices of the kind can be used; 0 where torch or the driver has none."""

    def name(self, device: torch.device) -> str:
        """The device's name for people."""

    def capabilities(self, device: torch.device) -> Capabilities:
        """What it computes well."""

    def is_unified(self, device: torch.device) -> bool:
        """Whether its memory is the computer's own: weights need no second copy, and what it takes is RAM."""

    def total(self, device: torch.device) -> int:
        """Bytes of memory that it has, or that a control group allows."""

    def free(self, device: torch.device) -> int:
        """Bytes that can still be allocated, with what torch's allocator holds unused."""

    def used(self, device: torch.device) -> int:
        """Bytes that this process has in use: the allocator's on an accelerator, private pages on the CPU."""

    def held(self, device: torch.device) -> int:
        """Bytes that the allocator holds unused."""

    def trim(self, device: torch.device) -> None:
        """Give back what the allocator holds unused."""

    def cap(self, device: torch.device, nbytes: int) -> None:
        """Let the allocator fail rather than take more than this, where the device's allocator can."""

    def start_peak(self, device: torch.device) -> None:
        """Measure the peak of `used` from here on."""

    def peak(self, device: torch.device) -> int:
        """The highest `used` since `start_peak`."""

    def synchronize(self, device: torch.device) -> None:
        """Wait until the device has done everything it was given."""

    def stream(self, device: torch.device) -> Stream | None:
        """A new stream for copies; None where copies cannot run beside the computation."""

    def current(self, device: torch.device) -> Stream:
        """The stream that computation is enqueued on now. Only asked for where `stream` gives one."""

    def pinning(self) -> Pinning | None:
        """How host memory is page-locked for it; None where that gains nothing or cannot be done."""


def supported(backends: Sequence[Backend]) -> list[Backend]:
    """Those kinds of which this computer has a device."""
    return [one for one in backends if one.count()]
