"""Makers for the engine's part of the contract: an engine with the classes, and what a run showed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.contract.engine import classes
from tests.engine.make import Bench, bench, call

__all__ = ["POLICIES", "Bench", "call", "called", "engine", "error", "out", "shown"]

POLICIES = [{}, {"cache_lru": 100}, {"cache_none": True}, {"cache_ram": 0.001}]
"""Settings of each cache policy: classic, lru, none, and ram with enough of it."""


@asynccontextmanager
async def engine(folder: Path, *more: type, **settings: Any) -> AsyncIterator[Bench]:
    """A running engine that has the classes of `classes`, and more."""
    classes.calls.clear()
    async with bench(folder, *classes.ALL, *more, **settings) as b:
        yield b


def called(*kinds: str) -> list[Any]:
    """What these classes were called with since this was last asked, in order; all of them by name for no kinds."""
    found = [args for kind, args in classes.calls if kind in kinds] if kinds else list(classes.calls)
    classes.calls.clear()
    return found


def out(node: str, slot: int = 0) -> dict[str, Any]:
    """An output that shows a slot of a node."""
    return call("Out", text=[node, slot])


def shown(entry: dict[str, Any]) -> dict[str, list[str]]:
    """The texts that each node showed."""
    return {node: ui["text"] for node, ui in entry["outputs"].items()}


def error(entry: dict[str, Any]) -> dict[str, Any]:
    """The error that ended a run."""
    kind, data = entry["status"]["messages"][-1]
    assert kind == "execution_error"
    found: dict[str, Any] = data
    return found
