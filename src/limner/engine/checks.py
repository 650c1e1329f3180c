"""What a node's own code says of its inputs while a prompt is validated (rules V9, V11, A5)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from limner.engine.executors.functions import Functions, call_companion
from limner.graph import Listed, Run, Schema


def run_checks(
    functions: Functions,
    make_run: Callable[[], Run],
    schema: Schema,
    constants: Mapping[str, Any],
    received: Mapping[str, str],
) -> list[Any]:
    """What the kind's `checks` companion answers, one for each mapped call: constants are one element, so one.

    Of inputs it is given the constants, None where linked, and `input_types`, the kinds of what is linked. Not to be
    called on an event loop: the companion may be a coroutine.
    """
    prepared = functions.get(schema.kind)
    companion = prepared.companion("checks")
    if companion is None:
        return [True]
    values: dict[str, Any] = {name: {} if marker == "PROMPT" else None for name, marker in schema.hidden.items()}
    values |= {name: list(value) if type(value) is Listed else value for name, value in constants.items()}
    if "input_types" in schema.validates:
        values["input_types"] = dict(received)
    if schema.input_is_list:
        values = {name: [value] for name, value in values.items()}
    answer = call_companion(companion, values, make_run, prepared.source is not None)
    return [wait_for(answer) if inspect.isawaitable(answer) else answer]


def wait_for(awaitable: Awaitable[Any]) -> Any:
    """What an awaitable gives."""

    async def wait() -> Any:
        return await awaitable

    return asyncio.run(wait())
