"""The functions behind node kinds: imported when a prompt first needs them, and called as their signature asks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from limner.errors import LimnerError
from limner.graph import NodeFunction, Port, Registry, Run, Schema


@dataclass(frozen=True, slots=True)
class Prepared:
    """A node kind ready to be called: its function and what of its schema each call needs."""

    schema: Schema
    function: Callable[..., Any]
    companions: Mapping[str, Callable[..., Any]]
    ports: Mapping[str, Port]
    hidden: tuple[tuple[str, str], ...]
    lazy: frozenset[str]
    list_slots: tuple[bool, ...]


class Functions:
    """Prepared kinds, each made once."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._prepared: dict[str, Prepared] = {}

    def get(self, kind: str) -> Prepared:
        """The kind ready to be called. Raises LimnerError when it is not there, and what importing its home raises."""
        found = self._prepared.get(kind)
        if found is None:
            schema = self._registry.get(kind)
            if schema is None:
                raise LimnerError(f"There is no node {kind}.", do="Install the pack it comes from, or replace it.")
            found = self._prepared[kind] = prepare(schema)
        return found


def prepare(schema: Schema) -> Prepared:
    """Import the function of a kind."""
    function, companions = resolve(schema.home)
    ports = {port.name: port for port in schema.inputs}
    has_lazy = "lazy" in companions
    return Prepared(
        schema=schema,
        function=function,
        companions=companions,
        ports=ports,
        hidden=tuple(schema.hidden.items()),
        lazy=frozenset(name for name, port in ports.items() if port.lazy) if has_lazy else frozenset(),
        list_slots=tuple(port.is_list for port in schema.outputs),
    )


def resolve(home: str) -> tuple[Callable[..., Any], Mapping[str, Callable[..., Any]]]:
    """The function at `package.module:attribute`, and its companions."""
    module, _, attribute = home.partition(":")
    found = getattr(import_module(module), attribute, None)
    if isinstance(found, NodeFunction):
        return found.function, found.companions
    if not callable(found):
        raise LimnerError(
            f"{home} is not a node function.",
            why="The description cache names it, but the module does not have it.",
            do="Run `python -m limner.nodes.describe`.",
        )
    return found, {}


def call_companion(companion: Callable[..., Any], values: Mapping[str, Any], make_run: Callable[[], Run]) -> Any:
    """Call a companion with those of the values that its signature names; a `Run` parameter is filled in."""
    names, takes_all, run_name = _signature(companion)
    wanted = dict(values) if takes_all else {name: value for name, value in values.items() if name in names}
    if run_name:
        wanted[run_name] = make_run()
    for name in names:
        wanted.setdefault(name, None)
    return companion(**wanted)


@cache
def _signature(companion: Callable[..., Any]) -> tuple[tuple[str, ...], bool, str]:
    """Names of the parameters without a default, whether it takes any name, and which parameter is the Run."""
    names: list[str] = []
    takes_all = False
    run_name = ""
    for name, parameter in inspect.signature(companion).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            takes_all = True
        elif name == "run" or parameter.annotation in (Run, "Run"):
            run_name = name
        else:
            names.append(name)
    return tuple(names), takes_all, run_name
