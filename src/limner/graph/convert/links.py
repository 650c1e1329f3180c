"""Where a wire comes from: followed back through reroutes, bypasses, subgraph walls and Set/Get pairs."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from limner.errors import BadInput
from limner.graph.convert.scopes import Scope, matching
from limner.graph.convert.workflow import ANY, BYPASSED, INSIDE, MUTED, OUTSIDE, Socket, UiNode

PRIMITIVE = "PrimitiveNode"
SETTERS = frozenset(("SetNode", "easy setNode"))
GETTERS = frozenset(("GetNode", "easy getNode"))
PASSING = frozenset(("Reroute", "Reroute (rgthree)", "ReroutePrimitive", "JunctionNode"))
SILENT = frozenset(
    (
        "Note",
        "MarkdownNote",
        "Fast Groups Muter (rgthree)",
        "Fast Groups Bypasser (rgthree)",
        "Fast Muter (rgthree)",
        "Fast Bypasser (rgthree)",
        "Fast Actions Button (rgthree)",
        "Node Collector (rgthree)",
        "Mute / Bypass Repeater (rgthree)",
        "Mute / Bypass Relay (rgthree)",
        "Random Unmuter (rgthree)",
        "Label (rgthree)",
        "Bookmark (rgthree)",
        "Anything Everywhere",
        "Anything Everywhere3",
        "Anything Everywhere?",
        "Prompts Everywhere",
        "Seed Everywhere",
    )
)
VIRTUAL = SETTERS | GETTERS | PASSING | SILENT | {PRIMITIVE}
"""Node types that exist in the browser only: they pass values on, or decorate."""


@dataclass(frozen=True)
class Value:
    """A constant at the end of a wire."""

    value: Any


@dataclass(frozen=True)
class Source:
    """An output of a node that runs: its id in the prompt, and the slot."""

    node: str
    slot: int


def follow(scope: Scope, socket: Socket, known: Container[str]) -> Source | Value | None:
    """What arrives at an input: a node's output, a constant, or nothing.

    socket: an input with a link. known: the kinds that are nodes of the engine; the rest of the virtual types pass on.
    Raises BadInput when the wires run in a circle without a node between them.
    """
    link, wanted = socket.link, socket.kind
    marked, rerouted = socket.widget is not None, False
    seen: set[tuple[int, str]] = set()
    while link is not None:
        if (id(scope), link) in seen:
            raise BadInput(
                f"The links into the input `{socket.name}` run in a circle.",
                why="Reroutes or bypassed nodes feed each other.",
                do="Open the workflow and remove one of these links.",
            )
        seen.add((id(scope), link))
        wire = scope.graph.wires.get(link)
        if wire is None:
            return None
        if wire.origin == INSIDE:
            outside = scope.host_input(wire.origin_slot)
            if scope.parent is None or outside is None or outside.link is None:
                promoted = scope.promoted.get(wire.origin_slot)
                return None if promoted is None else Value(promoted)
            scope, link, marked = scope.parent, outside.link, marked or outside.widget is not None
            continue
        node = scope.graph.nodes.get(wire.origin)
        if node is None or node.mode == MUTED:
            return None
        if node.mode == BYPASSED:
            link = _bypass(node, wire.origin_slot, wanted)
        elif node.id in scope.children:
            scope = scope.children[node.id]
            link = _leaving(scope, wire.origin_slot)
        elif node.type == PRIMITIVE:
            return primitive_value(scope, node) if marked and not rerouted else None
        elif node.type in GETTERS:
            scope, link = _setter(scope, node)
        elif node.type in VIRTUAL and node.type not in known:
            rerouted = True
            at = wire.origin_slot if wire.origin_slot < len(node.inputs) else 0
            link = node.inputs[at].link if node.inputs else None
        else:
            return Source(f"{scope.prefix}{node.id}", wire.origin_slot)
    return None


def primitive_value(scope: Scope, node: UiNode) -> Value | None:
    """The value of a PrimitiveNode: what a host sets for it, else its own; None when it has none."""
    for override in reversed(scope.overrides_of(node)):
        return Value(override.value)
    values = node.value_list() or list((node.named or {}).values())[:1]
    return Value(values[0]) if values and values[0] is not None else None


def _bypass(node: UiNode, slot: int, wanted: str) -> str | None:
    """The link of the input that stands in for output `slot` of a bypassed node."""
    if not node.inputs:
        return None
    given = node.outputs[slot].kind if 0 <= slot < len(node.outputs) else ANY
    same = node.inputs[slot] if 0 <= slot < len(node.inputs) else None
    if wanted == ANY:
        return (same or node.inputs[0]).link

    def fits(socket: Socket) -> bool:
        return _compatible(socket.kind, given) and _compatible(socket.kind, wanted)

    if same is not None and fits(same):
        return same.link
    exact = (socket for socket in node.inputs if socket.kind == wanted)
    loose = (socket for socket in node.inputs if fits(socket))
    chosen = next(exact, None) or next(loose, None)
    return chosen.link if chosen else None


def _compatible(a: str, b: str) -> bool:
    """Whether a wire may join two types: equal but for case, or sharing a member of a comma list."""
    if ANY in (a, b):
        return True
    return not set(a.lower().split(",")).isdisjoint(b.lower().split(","))


def _leaving(scope: Scope, slot: int) -> str | None:
    """The link inside a subgraph that leads to its host's output `slot`."""
    host = scope.host
    outputs = scope.graph.outputs
    leaving = matching(outputs, host.outputs, slot) if host and host.outputs else None
    index = outputs.index(leaving) if leaving is not None else slot
    wires = scope.graph.wires.items()
    return next((key for key, wire in wires if wire.target == OUTSIDE and wire.target_slot == index), None)


def _setter(scope: Scope, getter: UiNode) -> tuple[Scope, str | None]:
    """The link into the Set node of the same name, in this graph or one around it."""
    name = next(iter(getter.value_list()), None)
    for outer in scope.lineage():
        for node in outer.graph.nodes.values():
            if node.type in SETTERS and node.runs and node.value_list()[:1] == [name]:
                return outer, node.inputs[0].link if node.inputs else None
    return scope, None
