"""The peak of a number that only tells its present value: a thread looks at it every few milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Lock, Thread

import torch

INTERVAL = 0.01
"""Seconds between two looks. What rises and falls between them is not seen."""


class Sampler:
    """Looks at a number from when it is made until it is stopped."""

    def __init__(self, measure: Callable[[], int], interval: float = INTERVAL) -> None:
        self._measure = measure
        self._interval = interval
        self._stopped = Event()
        self._highest = measure()
        self._thread = Thread(target=self._run, name="limner peak memory", daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The highest value seen; the thread has ended. Asked again, the same."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._thread.join()
            self._highest = max(self._highest, self._measure())
        return self._highest

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            self._highest = max(self._highest, self._measure())


class Peaks:
    """The peaks of a kind's devices, one measurement a device at a time. Thread-safe."""

    def __init__(self, measure: Callable[[torch.device], int]) -> None:
        self._measure = measure
        self._samplers: dict[torch.device, Sampler] = {}
        self._lock = Lock()

    def start(self, device: torch.device) -> None:
        """Measure from here on; an earlier measurement of the device ends."""
        with self._lock:
            if earlier := self._samplers.pop(device, None):
                earlier.stop()
            self._samplers[device] = Sampler(lambda: self._measure(device))

    def peak(self, device: torch.device) -> int:
        """The highest since `start`, and the measurement ends; without a start what is measured now."""
        with self._lock:
            sampler = self._samplers.get(device)
            return self._measure(device) if sampler is None else sampler.stop()
