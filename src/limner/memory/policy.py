"""What stays on a device, what goes and what is streamed: pure functions over numbers, the same for real devices and
for simulated ones."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from limner.memory.units import Unit

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
        if not resident.in_use and resident.nbytes and resident.next_use > sooner_than:
            part = min(needed, resident.nbytes)
            chosen.append((resident.key, part))
            needed -= part
    return chosen


def grown(units: Sequence[Unit], resident: Collection[int], budget: int, buffers: int) -> list[int]:
    """The units to bring so that as many bytes as possible are resident within `budget`, in the order to bring them.

    The budget holds what is resident and `buffers` of the largest unit that is streamed. Resident units stay; fixed
    ones are brought whatever the budget. Units that cost the largest buffers are brought first.
    """
    here = set(resident)
    missing = [i for i in range(len(units)) if i not in here]
    chosen = [i for i in missing if units[i].fixed]
    used = sum(units[i].resident for i in here) + sum(units[i].resident for i in chosen)
    rest = sorted((i for i in missing if not units[i].fixed), key=lambda i: units[i].streamed, reverse=True)
    filled = list(accumulate((units[i].resident for i in rest), initial=used))
    # The more of the largest are resident, the smaller the buffers for the others: as many as fit with those buffers.
    costs = [buffers * units[i].streamed for i in rest] + [0]
    whole = max((k for k in range(len(costs)) if filled[k] + costs[k] <= budget), default=0)
    chosen += rest[:whole]
    left = budget - filled[whole] - costs[whole]
    for i in rest[whole:]:
        if units[i].resident <= left:
            chosen.append(i)
            left -= units[i].resident
    return sorted(chosen)


def shrunk(units: Sequence[Unit], resident: Collection[int], needed: int, buffers: int) -> list[int]:
    """The units to drop so that at least `needed` bytes become free, larger buffers deducted; fixed ones stay.

    Units of small buffers go first, then those that turn out not to be needed stay after all.
    """
    here = set(resident)
    away = max((units[i].streamed for i in range(len(units)) if i not in here), default=0) * buffers
    order = sorted((i for i in here if not units[i].fixed), key=lambda i: (units[i].streamed, units[i].resident))
    chosen: list[int] = []
    freed, buffer = 0, away
    for i in order:
        if freed - (buffer - away) >= needed:
            break
        if units[i].resident:
            chosen.append(i)
            freed += units[i].resident
            buffer = max(buffer, units[i].streamed * buffers)
    for i in list(chosen):  # dropped small ones may be covered by what came later
        if freed - units[i].resident - (buffer - away) >= needed:
            chosen.remove(i)
            freed -= units[i].resident
    return sorted(chosen)


def streaming_cost(units: Sequence[Unit], resident: Collection[int], buffers: int) -> int:
    """Bytes of the buffers that the units which are not resident need."""
    here = resident if isinstance(resident, (set, frozenset)) else set(resident)
    return buffers * max((unit.streamed for i, unit in enumerate(units) if i not in here), default=0)


def least_bytes(units: Sequence[Unit], buffers: int) -> int:
    """Bytes without which a network cannot be used: its fixed units, and the buffers for the others."""
    fixed = {i for i, unit in enumerate(units) if unit.fixed}
    return sum(units[i].resident for i in fixed) + streaming_cost(units, fixed, buffers)


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
