"""Which operations had to dequantize, for no function does them on a layout: counted for who asks, told in the log."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)


@dataclass
class Fallbacks:
    """How often an operation dequantized a layout: (layout, operation) → times."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __len__(self) -> int:
        return self.counts.total()

    def lines(self) -> Iterator[str]:
        """For people, the most frequent first."""
        for (layout, operation), times in self.counts.most_common():
            yield f"{operation} dequantized {layout} {times} time{'s' if times > 1 else ''}"


_OBSERVERS: ContextVar[tuple[Fallbacks, ...]] = ContextVar("quant_fallbacks", default=())


@contextmanager
def counting_fallbacks() -> Iterator[Fallbacks]:
    """Within the block, on this thread, what dequantizes is counted; the log has it once, and its sum at the end.

    Blocks may nest: each counts all that happens inside it.
    """
    found = Fallbacks()
    token = _OBSERVERS.set((*_OBSERVERS.get(), found))
    try:
        yield found
    finally:
        _OBSERVERS.reset(token)
        if not _OBSERVERS.get():
            for line in found.lines():
                logger.info("quantization: %s", line)


def note(layout: str, operation: str) -> None:
    """An operation dequantizes. Told at once unless it was before in the same block."""
    observers = _OBSERVERS.get()
    key = (layout, operation)
    if not observers or not observers[0].counts[key]:
        logger.info("quantization: %s is not known to %s, which is dequantized for it", operation, layout)
    for observer in observers:
        observer.counts[key] += 1
