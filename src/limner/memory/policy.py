"""What to unload for what is to be loaded: pure functions over numbers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Resident:
    """A network on a device: bytes of its own, when it was last used (larger is later), whether it is in use."""

    key: Hashable
    nbytes: int
    last_used: int
    in_use: bool = False


def to_evict(residents: Sequence[Resident], free: int, needed: int) -> list[Hashable]:
    """The networks to unload so that `needed` bytes fit, the longest unused first; none that is in use.

    All that can go are named even where that is not enough: the caller then tries with what it has.
    """
    chosen: list[Hashable] = []
    for resident in sorted(residents, key=lambda one: one.last_used):
        if free >= needed:
            break
        if not resident.in_use:
            chosen.append(resident.key)
            free += resident.nbytes
    return chosen


def batch_that_fits(free: int, bytes_per_item: int, wanted: int) -> int:
    """How many items of a batch to compute at once: at least one."""
    return max(1, min(wanted, free // max(1, bytes_per_item)))
