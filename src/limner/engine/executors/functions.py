"""The functions behind node kinds: imported when a prompt first needs them, and called as their signature asks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

from limner.errors import LimnerError
from limner.graph import CURRENT_RUN, NodeFunction, NodeSource, Port, Registry, Run, Schema, Snapshot
from limner.graph.source import CompanionName


@dataclass(frozen=True, slots=True)
class Prepared:
    """A node kind ready to be called: what of its schema each call needs, and its function.

    function, companions: of a built-in kind. simple: it takes and gives plain values, at once. source: where a kind
    comes from that is a class of a pack; it then gives the function and the companions for an instance.
    """

    schema: Schema
    function: Callable[..., Any]
    companions: Mapping[str, Callable[..., Any]]
    ports: Mapping[str, Port]
    hidden: tuple[tuple[str, str], ...]
    lazy: frozenset[str]
    list_slots: tuple[bool, ...]
    any_list: bool
    simple: bool = False
    source: NodeSource | None = None

    def companion(self, name: CompanionName, instance: Any | None = None) -> Callable[..., Any] | None:
        """The companion of that name, None for a kind that has none."""
        if self.source is not None:
            return self.source.companion(self.schema.kind, name, instance)
        return self.companions.get(name)


class Functions:
    """Prepared kinds: built-in ones are made once, those of sources whenever they are asked for."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._prepared: dict[str, Prepared] = {}

    def get(self, kind: str, schemas: Snapshot | None = None) -> Prepared:
        """The kind ready to be called, by the schemas of a run if there is one.

        Raises LimnerError when it is not there, and what importing its home or asking its class raises.
        """
        source = self._registry.source(kind)
        found = self._prepared.get(kind) if source is None else None
        if found is not None:
            return found
        schema = (self._registry if schemas is None else schemas).get(kind)
        if schema is None:
            failure = None if schemas is None else schemas.failure(kind)
            if failure is not None:
                raise failure
            raise LimnerError(f"There is no node {kind}.", do="Install the pack it comes from, or replace it.")
        found = prepare(schema, source)
        if source is None:
            self._prepared[kind] = found
        return found


def prepare(schema: Schema, source: NodeSource | None = None) -> Prepared:
    """Make a kind ready; the function of a built-in one is imported."""
    function, companions = (not_called, {}) if source is not None else resolve(schema.home)
    ports = schema.ports()
    has_lazy = "lazy" in (companions if source is None else schema.companions)
    slots = tuple(port.is_list for port in schema.outputs)
    return Prepared(
        schema=schema,
        function=function,
        companions=companions,
        ports=ports,
        hidden=tuple(schema.hidden.items()),
        lazy=frozenset(name for name, port in ports.items() if port.lazy) if has_lazy else frozenset(),
        list_slots=slots,
        any_list=any(slots),
        simple=source is None
        and not (has_lazy or any(slots) or schema.run_parameter or schema.input_is_list or schema.asynchronous),
        source=source,
    )


def not_called(**_: object) -> Any:
    """Stands where a source gives the function."""
    raise LimnerError("A node of a pack was called without its source.")


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


def call_companion(
    companion: Callable[..., Any], values: Mapping[str, Any], make_run: Callable[[], Run], foreign: bool = False
) -> Any:
    """Call a companion with those of the values that its signature names; what it gives may be an awaitable.

    A parameter without a default that no value is there for is None. A `Run` parameter is filled in; make_run is
    called for it, and for the companions of packs (`foreign`), which find it as CURRENT_RUN.
    """
    function, bound = (companion.__func__, True) if inspect.ismethod(companion) else (companion, False)
    names, without_default, takes_all, run_name = _signature(function, bound)
    wanted = dict(values) if takes_all else {name: value for name, value in values.items() if name in names}
    for name in without_default:
        wanted.setdefault(name, None)
    if foreign:
        token = CURRENT_RUN.set(make_run())
        try:
            return companion(**wanted)
        finally:
            CURRENT_RUN.reset(token)
    if run_name:
        wanted[run_name] = make_run()
    return companion(**wanted)


@lru_cache(maxsize=4096)
def _signature(function: Callable[..., Any], bound: bool) -> tuple[frozenset[str], tuple[str, ...], bool, str]:
    """Names of the parameters, which of them have no default, whether it takes any name, and which one is the Run.

    bound: the first parameter is filled in already.
    """
    names: list[str] = []
    without_default: list[str] = []
    takes_all = False
    run_name = ""
    for name, parameter in list(inspect.signature(function).parameters.items())[1 if bound else 0 :]:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            takes_all = True
        elif parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            continue
        elif parameter.annotation in (Run, "Run"):
            run_name = name
        else:
            names.append(name)
            if parameter.default is inspect.Parameter.empty:
                without_default.append(name)
    return frozenset(names), tuple(without_default), takes_all, run_name
