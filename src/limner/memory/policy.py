"""What stays on a device, what goes and what is streamed: pure functions over numbers, the same for real devices and
for simulated ones."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limner.memory.units import Unit, Units

MIB = 1024 * 1024
LEAST_FOR_WEIGHTS = 128 * MIB
LONGEST_CONTEXT = 8
"""Requests of the past that must have come before the same way, at most, for the past to be taken as the future."""
NEVER = 1 << 40


@dataclass(frozen=True)
class Resident:
    """A network on a device: bytes that dropping it frees, when it was last used (larger is later), whether it is in
    use, and how many requests away its next use is thought to be."""

    key: Hashable
    nbytes: int
    last_used: int
    in_use: bool = False
    next_use: int = NEVER


@dataclass(frozen=True)
class Wanted:
    """What a request for a network asks of its device.

    working: bytes that its computation would like besides the weights; least: that it cannot do without. passes: how
    often its weights are used. next_use: of this network after this time, in requests. loaded: bytes of its weights
    that are on the device.
    """

    working: int
    least: int
    passes: int
    next_use: int = NEVER


def weights_target(free: int, required: int, inference: int, ratio: float, floor: int = LEAST_FOR_WEIGHTS) -> int:
    """Bytes of weights that should be on the device, out of `free` with those that are there.

    What is required for the step is left free; where so much is required that less than `ratio` of the memory would
    hold weights, they get that share as long as `inference` bytes are left. floor: at least this much.
    """
    return max(floor, free - required, min(int(free * ratio), free - inference))


def to_change(target: int, loaded: int) -> int:
    """Bytes of weights to load, or, where negative, to take off the device."""
    return target - loaded


def reclaim(residents: Sequence[Resident], needed: int, sooner_than: int = -1) -> list[tuple[Hashable, int]]:
    """Which networks give up how many bytes so that `needed` are freed: no more than that, and none in use.

    Those whose next use is furthest go first, of equals the longest unused one. sooner_than: networks whose next use
    is nearer than this keep what they have. All that can go is named even where that is not enough.
    """
    chosen: list[tuple[Hashable, int]] = []
    for resident in sorted(residents, key=lambda one: (-one.next_use, one.last_used)):
        if needed <= 0:
            break
        if not resident.in_use and resident.nbytes and resident.next_use >= sooner_than:
            part = min(needed, resident.nbytes)
            chosen.append((resident.key, part))
            needed -= part
    return chosen


def grown(units: Sequence[Unit], resident: Collection[int], budget: int, buffers: int) -> list[int]:
    """The units to bring so that as many bytes as possible are resident within `budget`, in the order to bring them.

    The budget holds what is resident and `buffers` of the largest unit that is streamed. Resident units stay; fixed
    ones are brought whatever the budget. Units that cost the largest buffers are brought first.
    """
    if len(resident) == len(units):
        return []
    units = _counted(units)
    sizes, costs, fixed = units.sizes, units.in_passing(buffers), units.fixed
    chosen = fixed.copy()
    chosen[list(resident)] = False
    here = fixed.copy()
    here[list(resident)] = True
    rest = np.nonzero(~here)[0]
    rest = rest[np.argsort(-costs[rest], kind="stable")]
    filled = np.cumsum(np.append(sizes[here].sum(), sizes[rest]))
    # The more of the largest are resident, the smaller the buffers for the others: as many as fit with those buffers.
    taken = filled + np.append(costs[rest], 0)
    fits = np.nonzero(taken <= budget)[0]
    whole = int(fits[-1]) if len(fits) else 0
    chosen[rest[:whole]] = True
    left = budget - int(taken[whole])
    for i, size in zip(rest[whole:].tolist(), sizes[rest[whole:]].tolist(), strict=True):
        if size <= left:
            chosen[i] = True
            left -= size
    return _where(chosen)


def shrunk(units: Sequence[Unit], resident: Collection[int], needed: int, buffers: int) -> list[int]:
    """The units to drop so that at least `needed` bytes become free, larger buffers deducted; fixed ones stay.

    Units of small buffers go first, then those that turn out not to be needed stay after all.
    """
    if needed <= 0 or not resident:
        return []
    units = _counted(units)
    sizes, costs, fixed = units.sizes, units.in_passing(buffers or 1), units.fixed
    here = np.zeros(len(units), bool)
    here[list(resident)] = True
    order = np.nonzero(here & ~fixed & (sizes > 0))[0]
    order = order[np.lexsort((sizes[order], costs[order]))]
    away = int(costs[~here].max(initial=0))
    freed = np.cumsum(sizes[order])
    if buffers:
        freed -= np.maximum(costs[order], away) - away
    enough = np.nonzero(freed >= needed)[0]
    order = order[: int(enough[0]) + 1] if len(enough) else order
    spare = int(freed[len(order) - 1]) - needed if len(order) else 0
    dropped = np.zeros(len(units), bool)
    dropped[order] = True
    smallest = int(sizes[order].min(initial=1 << 62))
    for i, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        if spare < smallest:
            break
        if size <= spare:  # covered by what came later
            dropped[i] = False
            spare -= size
    return _where(dropped)


def streaming_cost(units: Sequence[Unit], resident: Collection[int], buffers: int) -> int:
    """Bytes of the buffers that the units which are not resident need, and of what filling these takes."""
    return _most(_counted(units).in_passing(buffers), resident)


def largest_buffer(units: Sequence[Unit], resident: Collection[int]) -> int:
    """Bytes of one of these buffers."""
    return _most(_counted(units).streamed, resident)


def least_bytes(units: Sequence[Unit], buffers: int) -> int:
    """Bytes without which a network cannot be used: its fixed units, and the buffers for the others."""
    units = _counted(units)
    others = units.in_passing(buffers)[~units.fixed]
    return int(units.sizes[units.fixed].sum()) + int(others.max(initial=0))


def _counted(units: Sequence[Unit]) -> Units:
    return units if isinstance(units, Units) else Units(units)


def _most(values: NDArray[np.int64], resident: Collection[int]) -> int:
    """The largest of those that are not resident."""
    away = np.ones(len(values), bool)
    away[list(resident)] = False
    return int(values[away].max(initial=0))


def _where(chosen: NDArray[np.bool_]) -> list[int]:
    """The places that are true, in order."""
    return np.nonzero(chosen)[0].tolist()


def expected(log: Sequence[Hashable]) -> list[Hashable]:
    """Requests that will come, as far as the past says: what followed the longest stretch that is like the latest one.

    log: requests so far, the latest last. Empty where the latest one is new.
    """
    if not log:
        return []
    last = len(log) - 1
    best, longest = -1, 0
    for place in range(last - 1, -1, -1):
        length = 0
        while length < min(LONGEST_CONTEXT, place + 1) and log[place - length] == log[last - length]:
            length += 1
        if length > longest:
            best, longest = place, length
            if length == LONGEST_CONTEXT:
                break
    return list(log[best + 1 :]) if longest else []


def next_uses(log: Sequence[Hashable]) -> dict[Hashable, int]:
    """How many requests away each network's next use is thought to be; those that are not named, `NEVER`."""
    found: dict[Hashable, int] = {}
    for distance, key in enumerate(expected(log), start=1):
        found.setdefault(key, distance)
    return found


def batch_that_fits(free: int, bytes_per_item: int, wanted: int) -> int:
    """How many items of a batch to compute at once: at least one."""
    return max(1, min(wanted, free // max(1, bytes_per_item)))
