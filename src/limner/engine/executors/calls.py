"""Calling a node: lists mapped over calls, results gathered into slots (rules M1 to M7, B1 to B3)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limner.engine.executors.functions import Prepared
from limner.errors import LimnerError
from limner.graph import NodeResult, Ui


@dataclass(frozen=True, slots=True)
class Blocker:
    """A value that stops what depends on it. message: told once, by the first node it reaches; "" says nothing."""

    message: str


@dataclass(frozen=True, slots=True)
class Called:
    """What the calls of one node gave: slots of lists, and what to show.

    blocked: whether an output is a Blocker. told: the message of a Blocker that this node received first.
    """

    outputs: tuple[list[Any], ...]
    ui: Mapping[str, Any] | None
    blocked: bool = False
    told: str = ""


def arguments(inputs: Mapping[str, list[Any]], whole_lists: bool) -> Iterator[dict[str, Any]]:
    """The keyword arguments of each call: as many calls as the longest list, shorter ones repeat their last (M2).

    whole_lists: one call with the lists themselves (M4). No inputs at all: one call without any (M5).
    """
    if whole_lists:
        yield dict(inputs)
        return
    longest = max(map(len, inputs.values()), default=1)
    if longest == 0:  # every list is empty: the node is called and says itself what it misses (M6)
        yield {}
        return
    for i in range(longest):
        # An empty list beside a longer one has no last value: IndexError, as rule M6 has it.
        yield {name: values[i if i < len(values) else -1] for name, values in inputs.items()}


def call(prepared: Prepared, inputs: Mapping[str, list[Any]], blockers: bool, check: Callable[[], None]) -> Called:
    """Call a node once per mapped element and gather what it gives.

    blockers: whether there may be a Blocker among the inputs. check: called before each call; raises to stop.
    """
    results: list[tuple[Sequence[Any], Mapping[str, Any] | None]] = []
    told = ""
    blocked = False
    count = len(prepared.list_slots)
    for kwargs in arguments(inputs, prepared.schema.input_is_list):
        check()
        found = _blocker(kwargs) if blockers else None
        if found is not None:
            blocked = True
            told = told or found.message
            results.append(((Blocker(""),) * count, None))  # told once, silent from here on (B2)
            continue
        result = prepared.function(**kwargs)
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
        blocked = blocked or (type(result) is NodeResult and result.blocked is not None)
        results.append(unpack(result, prepared))
    return Called(_slots(results, prepared.list_slots), _merged_ui(results), blocked, told)


def _blocker(kwargs: Mapping[str, Any]) -> Blocker | None:
    for value in kwargs.values():
        if type(value) is Blocker:
            return value
        if type(value) is list:  # a whole list: one blocked element blocks the call (B3)
            found = next((one for one in value if type(one) is Blocker), None)
            if found is not None:
                return found
    return None


def unpack(result: Any, prepared: Prepared) -> tuple[Sequence[Any], Mapping[str, Any] | None]:
    """What one call returned as (a value per output, what to show)."""
    count = len(prepared.list_slots)
    ui: Mapping[str, Any] | None = None
    if type(result) is Ui:
        ui, values = result.ui, result.values
    elif type(result) is NodeResult:
        if result.expansion is not None:
            raise LimnerError(
                f"{prepared.schema.kind} returned an expansion.",
                why="This version does not run graphs that nodes make while they run.",
            )
        ui = result.ui or None
        values = result.values if result.blocked is None else (Blocker(result.blocked),) * count
    elif count == 1 and not hasattr(result, "_fields"):
        return (result,), None
    elif count == 0:
        return (), None
    else:
        values = result
    if not isinstance(values, (tuple, list)) or len(values) != count:
        given = len(values) if isinstance(values, (tuple, list)) else type(values).__name__
        raise LimnerError(f"{prepared.schema.kind} returned {given} values, but has {count} outputs.")
    return values, ui


def _slots(
    results: Sequence[tuple[Sequence[Any], Mapping[str, Any] | None]], list_slots: Sequence[bool]
) -> tuple[list[Any], ...]:
    """Each output's values over all calls; those of list outputs are joined (M3)."""
    if len(results) == 1 and not any(list_slots):
        return tuple([value] for value in results[0][0])
    slots: tuple[list[Any], ...] = tuple([] for _ in list_slots)
    for values, _ in results:
        for slot, value, is_list in zip(slots, values, list_slots, strict=True):
            if is_list and type(value) is not Blocker:
                slot.extend(value)
            else:
                slot.append(value)
    return slots


def _merged_ui(results: Sequence[tuple[Sequence[Any], Mapping[str, Any] | None]]) -> Mapping[str, Any] | None:
    """What all calls show, joined key by key (M7)."""
    shown = [ui for _, ui in results if ui is not None]
    if len(shown) <= 1:
        return shown[0] if shown else None
    merged: dict[str, list[Any]] = {}
    for ui in shown:
        for key, values in ui.items():
            merged.setdefault(key, []).extend(values)
    return merged
