"""Calling a node: lists mapped over calls, results gathered into slots (rules M1 to M8, B1 to B4)."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from limner.engine.executors.functions import Prepared
from limner.errors import LimnerError
from limner.graph import Blocker, NodeResult, Ui


class Given(NamedTuple):
    """What one call gave: a value per output, what to show, and a graph to run in the node's place."""

    values: Sequence[Any]
    ui: Mapping[str, Any] | None = None
    expansion: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The calls of one node, each with what it gave or the task that will give it.

    told: the message of a Blocker that this node received first (rule B2).
    """

    results: list[Given | Any]
    told: str = ""


@dataclass(frozen=True, slots=True)
class Called:
    """What all calls of one node gave: slots of lists, and what to show. blocked: whether a value is a Blocker."""

    outputs: tuple[list[Any], ...]
    ui: Mapping[str, Any] | None
    blocked: bool = False


def arguments(inputs: Mapping[str, list[Any]], whole_lists: bool) -> Iterator[dict[str, Any]]:
    """The keyword arguments of each call: as many calls as the longest list, shorter ones repeat their last (M2).

    whole_lists: one call with the lists themselves (M4). No inputs at all: one call without any (M5).
    """
    if whole_lists:
        yield dict(inputs)
        return
    longest = max(map(len, inputs.values()), default=1)
    if longest == 1 and all(inputs.values()):
        yield {name: values[0] for name, values in inputs.items()}
        return
    if longest == 0:  # every list is empty: the node is called and says itself what it misses (M6)
        yield {}
        return
    for i in range(longest):
        # An empty list beside a longer one has no last value: IndexError, as rule M6 has it.
        yield {name: values[i if i < len(values) else -1] for name, values in inputs.items()}


def start(
    prepared: Prepared,
    function: Callable[..., Any],
    inputs: Mapping[str, list[Any]],
    blockers: bool,
    enter: Callable[[int], None],
    begin: Callable[[Awaitable[Any]], Any],
) -> Started:
    """Call a node once per mapped element. Coroutines are begun, not awaited.

    blockers: whether there may be a Blocker among the inputs. enter: called before each call with its place in the
    mapping; raises to stop. begin: makes a task of what a call gave, if that is an awaitable.
    """
    results: list[Given | Any] = []
    told = ""
    may_wait = prepared.source is not None or prepared.schema.asynchronous
    for i, kwargs in enumerate(arguments(inputs, prepared.schema.input_is_list)):
        enter(i)
        found = _blocker(kwargs) if blockers else None
        if found is not None:
            told = told or found.message or ""
            results.append(Given((Blocker(),) * len(prepared.list_slots)))  # told once, silent from here on (B2)
            continue
        result = function(**kwargs)
        if may_wait and inspect.isawaitable(result):
            results.append(begin(result))
        else:
            results.append(unpack(result, prepared))
    return Started(results, told)


def _blocker(kwargs: Mapping[str, Any]) -> Blocker | None:
    for value in kwargs.values():
        if isinstance(value, Blocker):
            return value
        if type(value) is list:  # a whole list: one blocked element blocks the call (B3)
            found = next((one for one in value if isinstance(one, Blocker)), None)
            if found is not None:
                return found
    return None


def unpack(result: Any, prepared: Prepared) -> Given:
    """What one call returned, taken apart."""
    count = len(prepared.list_slots)
    ui: Mapping[str, Any] | None = None
    if type(result) is Ui:
        ui, values = result.ui, result.values
    elif type(result) is NodeResult:
        ui = result.ui or None
        if result.blocked is not None:
            return Given((Blocker(result.blocked or None),) * count, ui)
        if prepared.source is not None or result.expansion is not None:
            # A class may give fewer values than it has outputs, and more.
            return Given(result.values, ui, result.expansion)
        values = result.values
    elif count == 1 and not hasattr(result, "_fields"):
        return Given((result,))
    elif count == 0:
        return Given(())
    else:
        values = result
    if not isinstance(values, (tuple, list)) or len(values) != count:
        given = len(values) if isinstance(values, (tuple, list)) else type(values).__name__
        raise LimnerError(f"{prepared.schema.kind} returned {given} values, but has {count} outputs.")
    return Given(values, ui)


def gather(results: Sequence[Given], prepared: Prepared) -> Called:
    """What all calls gave, none of which holds a graph to run: each output's values over all calls (M3)."""
    if len(results) == 1 and not prepared.any_list:
        given = results[0]
        blocked = False
        for value in given.values:
            if isinstance(value, Blocker):
                blocked = True
        return Called(tuple([value] for value in given.values), given.ui, blocked)
    slots = empty_slots(results)
    blocked = False
    for given in results:
        for place, value in enumerate(given.values):
            blocked = add_value(slots[place], value, _is_list(prepared, place)) or blocked
    return Called(slots, merged_ui(results), blocked)


def empty_slots(results: Sequence[Given]) -> tuple[list[Any], ...]:
    """As many empty lists as the most any call gave."""
    return tuple([] for _ in range(max((len(given.values) for given in results), default=0)))


def add_value(slot: list[Any], value: Any, is_list: bool) -> bool:
    """Put one call's value for an output into its slot (M3). Returns whether it blocks what depends on it."""
    if isinstance(value, Blocker):
        slot.append(value)
        return True
    if is_list:
        slot.extend(value)
        return any(isinstance(one, Blocker) for one in value)
    slot.append(value)
    return False


def _is_list(prepared: Prepared, place: int) -> bool:
    return place < len(prepared.list_slots) and prepared.list_slots[place]


def resolve(results: Sequence[Given], prepared: Prepared, value_of: Callable[[Any], list[Any] | None]) -> Called:
    """As `gather`, where calls gave graphs that have run by now (rules G2, G3).

    value_of: the list of values that a link brings, None for what is no link; asked only for calls with a graph.
    """
    slots = empty_slots(results)
    blocked = False
    for given in results:
        for place, value in enumerate(given.values):
            brought = None if given.expansion is None else value_of(value)
            if brought is None:
                blocked = add_value(slots[place], value, _is_list(prepared, place)) or blocked
            else:
                blocked = add_value(slots[place], brought, True) or blocked
    return Called(slots, merged_ui(results), blocked)


def merged_ui(results: Sequence[Given]) -> Mapping[str, Any] | None:
    """What all calls show, joined key by key (M7)."""
    shown = [given.ui for given in results if given.ui is not None]
    if len(shown) <= 1:
        return shown[0] if shown else None
    merged: dict[str, list[Any]] = {}
    for ui in shown:
        for key, values in ui.items():
            merged.setdefault(key, []).extend(values)
    return merged
