"""Places in the queue: a number, lower first, and a rank that orders equal numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from limner.errors import BadInput


class Place(NamedTuple):
    """Where a prompt stands. rank: its place of arrival until it is moved."""

    number: int | float
    rank: float


def between(own: Place, before: Place | None, after: Place | None) -> Place | None:
    """A place after `before` and ahead of `after`, with as little of `own` changed as can be.

    None when the two are so close that no number lies between them: then `spread` is needed.
    """
    if (before is None or before < own) and (after is None or own < after):
        return own
    if after is None:
        assert before is not None  # noqa: S101 - with neither, `own` fits
        return Place(before.number, before.rank + 1)
    if before is None or before.number != after.number:
        return Place(after.number, after.rank - 1)
    middle = (before.rank + after.rank) / 2
    return Place(after.number, middle) if before.rank < middle < after.rank else None


def spread(places: Sequence[Place]) -> list[Place]:
    """The same order with whole ranks, none above the highest there was, so that what arrives later stays later."""
    top: dict[int | float, float] = {}
    for place in places:
        top[place.number] = max(place.rank, top.get(place.number, place.rank))
    spreaded = []
    for place in reversed(places):
        spreaded.append(Place(place.number, top[place.number]))
        top[place.number] -= 1
    return spreaded[::-1]


@dataclass(frozen=True)
class Target:
    """Where a waiting prompt is wanted: at an index, or directly before or after another; an index of -1 is the end."""

    index: int = -1
    before: str | None = None
    after: str | None = None


def find_index(target: Target, others: Sequence[str]) -> int:
    """The index among the other waiting prompts that a target means. Raises BadInput when its anchor does not wait."""
    anchor = target.before if target.before is not None else target.after
    if anchor is None:
        return len(others) if target.index < 0 else min(target.index, len(others))
    if anchor not in others:
        raise BadInput(f"The prompt {anchor!r:.80} does not wait.", do="Name one of GET /api/queue/state.")
    return others.index(anchor) + (target.before is None)
