"""Page-locked host memory: weights that wait in it are copied to an accelerator faster, and beside computation.

What is locked is taken from every other program of the computer, so there is a budget. A driver reports most errors of
locking twice, the second time to some later operation on the device; so nothing is tried that is known to fail, and
what fails all the same is followed by clearing the device's error.
"""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from threading import RLock

import torch
from torch import Tensor, nn

from limner.memory import backends
from limner.memory.backends.protocol import Pinning
from limner.memory.settings import MemorySettings

_log = logging.getLogger(__name__)

OFF = -1
"""The budget where nothing is locked at all."""
WINDOWS_SHARE, SHARE = 45, 95
"""Percent of the RAM that may be locked. The driver of Windows, which WSL uses too, refuses about half of it."""
TRIES = 3
"""Failures in a row after which nothing is tried any more."""
MIB = 1024 * 1024


def on_windows(system: str = sys.platform, release: str | None = None) -> bool:
    """Whether the driver is Windows', as it is in WSL."""
    return system == "win32" or "microsoft" in (platform.release() if release is None else release).lower()


def budget(settings: MemorySettings, total: int, *, unified: bool, windows: bool) -> int:
    """Bytes that may be locked where the computer, or its control group, has `total`; `OFF` for none.

    unified: the accelerator works in the computer's own memory. A locked copy gains nothing there and takes from it.
    """
    if settings.disable_pinned_memory:
        return OFF
    if settings.pinned_memory_limit is not None:
        return settings.pinned_memory_limit.of(total) or OFF
    if unified:
        return OFF
    return total * (WINDOWS_SHARE if windows else SHARE) // 100


@dataclass(frozen=True)
class _Pin:
    """A locked span. The storage is kept: memory that is freed while locked would be handed out again as locked."""

    nbytes: int
    storage: torch.UntypedStorage


class PinnedMemory:
    """What this process has locked, by pointer, within a budget in bytes. Thread-safe; one for a process.

    runtime: None where the device's kind has none; then nothing is ever locked.
    """

    def __init__(self, runtime: Pinning | None, budget: int) -> None:
        self._runtime = runtime if budget > 0 else None
        self._pins: dict[int, _Pin] = {}
        self._total = 0
        self._failures = 0
        self._bound: int | None = None
        self._lock = RLock()
        self.budget = OFF if self._runtime is None else budget
        if self._runtime is not None:
            _log.info("Enabled pinned memory %d", budget // MIB)

    @classmethod
    def of(cls, runtime: Pinning | None, settings: MemorySettings, unified: bool) -> PinnedMemory:
        """What the settings allow of this computer's RAM, or of its control group's; unified: see `budget`."""
        total = backends.of_kind("cpu").total(torch.device("cpu"))
        return cls(runtime, budget(settings, total, unified=unified, windows=on_windows()))

    @property
    def total(self) -> int:
        """Bytes that are locked."""
        return self._total

    @property
    def spans(self) -> dict[int, int]:
        """Bytes that are locked, by pointer."""
        with self._lock:
            return {pointer: pin.nbytes for pointer, pin in self._pins.items()}

    @property
    def enabled(self) -> bool:
        """Whether anything may still be locked."""
        return self._runtime is not None and self._failures < TRIES

    @property
    def has_room(self) -> bool:
        """Whether so much as a byte may still be locked."""
        return self.enabled and self._total < self._most

    def allow(self, nbytes: int | None) -> None:
        """Lock no more than `nbytes` besides what is locked now; None for what the budget has."""
        with self._lock:
            self._bound = None if nbytes is None else self._total + nbytes

    def owns(self, tensor: Tensor) -> bool:
        """Whether a tensor's memory was locked here."""
        return tensor.data_ptr() in self._pins

    def pin(self, tensor: Tensor) -> bool:
        """Lock the memory of a parameter; False where it was not.

        Only a plain `torch.nn.Parameter` on the CPU that is contiguous, not locked yet and within the budget is tried:
        a subclass may have its numbers anywhere.
        """
        return type(tensor) is nn.Parameter and self._pin(tensor)

    def pin_inner(self, tensors: Sequence[Tensor]) -> bool:
        """Lock the plain tensors that a quantized one consists of, all of them or none."""
        with self._lock:
            done: list[Tensor] = []
            for tensor in tensors:
                if type(tensor) not in (Tensor, nn.Parameter) or not self._pin(tensor):
                    for one in done:
                        self.unpin(one)
                    return False
                done.append(tensor)
            return bool(done)

    def unpin(self, tensor: Tensor) -> bool:
        """Unlock what was locked here; False, and a warning, for anything else or what has another size since.

        No copy from it may be under way.
        """
        if tensor.device.type != "cpu":
            return False
        with self._lock:
            pointer, nbytes = tensor.data_ptr(), tensor.nbytes
            pin = self._pins.get(pointer)
            if pin is None:
                _log.warning("Not unpinned: a tensor of %d bytes that was not pinned here.", nbytes)
                return False
            if pin.nbytes != nbytes:
                _log.warning("Not unpinned: a tensor of %d bytes that had %d when pinned.", nbytes, pin.nbytes)
                return False
            return self._unpin(pointer)

    def unpin_inner(self, tensors: Sequence[Tensor]) -> bool:
        """Unlock what `pin_inner` locked; False where one was not."""
        done = [self.unpin(tensor) for tensor in tensors]
        return all(done)

    def close(self) -> None:
        """Unlock everything."""
        with self._lock:
            for pointer in list(self._pins):
                self._unpin(pointer)

    @property
    def _most(self) -> int:
        return self.budget if self._bound is None else min(self.budget, self._bound)

    def _pin(self, tensor: Tensor) -> bool:
        with self._lock:
            runtime, nbytes = self._runtime, tensor.nbytes
            if runtime is None or not self.enabled or tensor.device.type != "cpu" or not tensor.is_contiguous():
                return False
            if nbytes == 0 or self._total + nbytes > self._most or self.owns(tensor) or runtime.is_pinned(tensor):
                return False
            result = runtime.register(tensor.data_ptr(), nbytes)
            if result != 0:
                self._failed(runtime, nbytes, result)
                return False
            self._failures = 0
            self._pins[tensor.data_ptr()] = _Pin(nbytes, tensor.untyped_storage())
            self._total += nbytes
            return True

    def _failed(self, runtime: Pinning, nbytes: int, result: int) -> None:
        self._failures += 1
        runtime.clear_error()
        _log.warning("Pinning %d bytes failed with error %d; %d are pinned.", nbytes, result, self._total)
        if self._failures == TRIES:
            _log.warning("Pinning failed %d times in a row, so it is not tried any more.", TRIES)

    def _unpin(self, pointer: int) -> bool:
        assert self._runtime is not None  # noqa: S101 - there is a pin, so there was a runtime
        result = self._runtime.unregister(pointer)
        if result != 0:
            self._runtime.clear_error()
            _log.warning("Unpinning %d bytes failed with error %d.", self._pins[pointer].nbytes, result)
            return False
        self._total -= self._pins.pop(pointer).nbytes
        if not self._pins:
            self._total = 0
        return True
