"""@node: a typed function becomes a node and stays a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, update_wrapper
from typing import Any, Generic, Literal, ParamSpec, TypeVar

from limner.graph.schema import NodeTraits, Schema, derive_schema

P = ParamSpec("P")
R = TypeVar("R")
Companion = TypeVar("Companion", bound=Callable[..., Any])


@dataclass(frozen=True)
class Ui:
    """What an output node shows, `{"images": [{"filename", "subfolder", "type"}]}`, and its values, if any."""

    ui: Mapping[str, Any]
    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class NodeResult:
    """What a node gives back when plain values do not say it.

    values: one per output. expansion: a graph to run in the node's place, `{id: {"class_type", "inputs"}}`; then
    `values` may hold links into it. ui: as in `Ui`. blocked: a message (or "") when what depends on the outputs must
    not run.
    """

    values: tuple[Any, ...] = ()
    expansion: Mapping[str, Any] | None = None
    ui: Mapping[str, Any] = field(default_factory=dict)
    blocked: str | None = None


class NodeFunction(Generic[P, R]):
    """A node: the function itself, called as ever, with its schema and its companions beside it."""

    def __init__(self, function: Callable[P, R], traits: NodeTraits) -> None:
        update_wrapper(self, function)
        self.function = function
        self.traits = traits
        self.companions: dict[str, Callable[..., Any]] = {}
        self.validated: frozenset[str] = frozenset()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function."""
        return self.function(*args, **kwargs)

    @cached_property
    def schema(self) -> Schema:
        """The schema, derived once from signature, hints and docstring."""
        derived = derive_schema(self.function, self.traits)
        return replace(derived, companions=frozenset(self.companions), validates=self.validated)

    def changes_when(self, companion: Companion) -> Companion:
        """Register what tells a stale result: called with the inputs (None where linked), compared by equality."""
        self.companions["changes_when"] = companion
        return companion

    def lazy(self, companion: Companion) -> Companion:
        """Register what says which lazy inputs are needed: called with what is there, returns names."""
        self.companions["lazy"] = companion
        return companion

    def checks(self, *names: str) -> Callable[[Companion], Companion]:
        """Register what validates the named inputs: returns True, or a text that says what is wrong."""

        def register(companion: Companion) -> Companion:
            self.companions["checks"] = companion
            self.validated = frozenset(names)
            return companion

        return register


def node(
    kind: str,
    *,
    category: str,
    title: str,
    python_module: str = "nodes",
    style: Literal["v1", "v3"] = "v1",
    output_node: bool = False,
    input_is_list: bool = False,
    not_idempotent: bool = False,
    deprecated: bool = False,
    experimental: bool = False,
    description: str = "",
    output_names: tuple[str, ...] | None = None,
) -> Callable[[Callable[P, R]], NodeFunction[P, R]]:
    """Make a typed function a node of that kind string, which is its public name in prompts and never changes.

    python_module, style: what descriptions say of it on the wire. output_names: the outputs' names where they differ
    from their kinds and no NamedTuple says so.
    """
    traits = NodeTraits(
        kind=kind,
        category=category,
        title=title,
        python_module=python_module,
        style=style,
        output_node=output_node,
        input_is_list=input_is_list,
        not_idempotent=not_idempotent,
        deprecated=deprecated,
        experimental=experimental,
        description=description,
        output_names=output_names,
    )

    def decorate(function: Callable[P, R]) -> NodeFunction[P, R]:
        return NodeFunction(function, traits)

    return decorate
