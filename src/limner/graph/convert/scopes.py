"""Scopes: the root graph and every instance of a subgraph in it, each knowing where it stands and what its host sets.

A subgraph's definition may stand in many places; each place is a scope of its own, whose nodes get ids of the form
`host:inner`. The host shows some inner widgets as its own; their values are handed down here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from limner.errors import BadInput
from limner.graph.convert.workflow import INSIDE, Graph, Socket, UiNode

MOST_SCOPES = 10_000
DEEPEST = 100
LINKED = "-1"
"""The inner id by which a host's widget list names its own inputs."""


@dataclass(frozen=True)
class Override:
    """A value that a host sets for a widget inside: on which node, which widget, and whose, where that is doubtful."""

    node: str
    widget: str
    source: str
    value: Any


@dataclass(eq=False)
class Scope:
    """A graph at one place.

    prefix: what its nodes' ids begin with. depth: how many walls are around it. host: the node it stands for, in
    `parent`. promoted: the host's values for the definition's inputs, by index. overrides: its values for widgets of
    nodes inside.
    """

    graph: Graph
    prefix: str = ""
    depth: int = 0
    host: UiNode | None = None
    parent: Scope | None = None
    definition: str = ""
    promoted: dict[int, Any] = field(default_factory=dict)
    overrides: list[Override] = field(default_factory=list)
    children: dict[str, Scope] = field(default_factory=dict)

    def lineage(self) -> Iterator[Scope]:
        """This scope, its parent, and so on to the root."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def overrides_of(self, node: UiNode) -> list[Override]:
        """What the host sets for this node."""
        return [override for override in self.overrides if override.node == node.id]

    def host_input(self, slot: int) -> Socket | None:
        """The host's socket for the definition's input of that index; by name where the host lists fewer."""
        return matching(self.host.inputs if self.host else (), self.graph.inputs, slot)


def matching(sockets: tuple[Socket, ...], others: tuple[Socket, ...], slot: int) -> Socket | None:
    """The one of `sockets` that is the same as number `slot` of `others`: by index if as many, else by name."""
    if not 0 <= slot < len(others):
        return None
    if len(sockets) == len(others):
        return sockets[slot]
    return next((socket for socket in sockets if socket.name == others[slot].name), None)


def open_scopes(root: Graph, definitions: Mapping[str, Graph]) -> Scope:
    """The root's scope, with those of all instances that run in it, however deep.

    Raises BadInput when a subgraph contains itself, or when there are absurdly many.
    """
    top = Scope(root)
    waiting, count = [top], 1
    while waiting:
        scope = waiting.pop()
        for node in scope.graph.nodes.values():
            if node.type not in definitions or not node.runs:
                continue
            if any(outer.definition == node.type for outer in scope.lineage()):
                raise BadInput(
                    f"The subgraph {definitions[node.type].name!r} contains itself.",
                    do="Remove the inner instance, or unpack it.",
                )
            child = Scope(
                definitions[node.type],
                f"{scope.prefix}{node.id}:",
                depth=scope.depth + 1,
                host=node,
                parent=scope,
                definition=node.type,
            )
            _hand_down(child, scope.overrides_of(node))
            scope.children[node.id] = child
            waiting.append(child)
            count += 1
            if count > MOST_SCOPES or child.depth > DEEPEST:
                raise BadInput(
                    "The workflow has too many subgraphs.",
                    why=f"At most {MOST_SCOPES} instances are allowed, and {DEEPEST} inside each other.",
                )
    return top


def _hand_down(scope: Scope, outer: list[Override]) -> None:
    """Take the host's widget values apart: for the definition's inputs, and for widgets of nodes inside.

    outer: what the host's own host sets for it; those win.
    """
    host = scope.host
    assert host is not None  # noqa: S101 - only instances are handed values
    linked = _linked_widgets(scope.graph)
    proxies = host.properties.get("proxyWidgets")
    entries = [_entry(entry) for entry in proxies] if isinstance(proxies, list) else []
    for name, value in _host_values(host, scope.graph, linked, entries):
        slot = next((at for at in linked if scope.graph.inputs[at].name == name[1]), None)
        if name[0] == LINKED and slot is not None:
            scope.promoted[slot] = value
        elif name[0] != LINKED and value is not None:
            scope.overrides.append(Override(*name, value))
    shown = {entry[1]: entry for entry in reversed(entries) if entry[0] != LINKED}
    for override in outer:
        slot = next((at for at in linked if scope.graph.inputs[at].name == override.widget), None)
        if slot is not None:
            scope.promoted[slot] = override.value
        elif override.widget in shown:
            scope.overrides.append(Override(*shown[override.widget], override.value))
        elif override.source:
            scope.overrides.append(Override(override.source, override.widget, "", override.value))


def _linked_widgets(graph: Graph) -> list[int]:
    """The definition's inputs that lead to a widget inside: those are widgets of the host."""
    found = set()
    for wire_id, wire in graph.wires.items():
        if wire.origin != INSIDE or not 0 <= wire.origin_slot < len(graph.inputs):
            continue
        target = graph.nodes.get(wire.target)
        if target and any(socket.link == wire_id and socket.widget is not None for socket in target.inputs):
            found.add(wire.origin_slot)
    return sorted(found)


def _entry(entry: Any) -> tuple[str, str, str]:
    """A line of the host's widget list: inner node, widget, and whose widget it is, stripped of level prefixes."""
    parts = [str(part) for part in entry] if isinstance(entry, list) else []
    if len(parts) < 2:
        return "", "", ""
    name, source = parts[1], parts[2] if len(parts) > 2 else ""
    while found := re.match(r"(\d+): (.+)", name):
        source, name = found[1], found[2]
    return parts[0], name, source


def _host_values(
    host: UiNode, graph: Graph, linked: list[int], entries: list[tuple[str, str, str]]
) -> Iterator[tuple[tuple[str, str, str], Any]]:
    """The host's widgets, each as (inner node, widget, source), with their saved values."""
    of_inputs = [(LINKED, graph.inputs[at].name, "") for at in linked]
    listed = {name for node, name, _ in entries if node == LINKED}
    order = entries or of_inputs
    if entries and not listed and len(host.value_list()) == len(of_inputs) + len(entries):
        order = of_inputs + entries
    by_name = host.named if host.named is not None else host.values if isinstance(host.values, dict) else None
    values = [by_name.get(entry[1]) for entry in order] if by_name is not None else host.value_list()
    for entry, value in zip(order, values, strict=False):
        if entry[1] and not entry[1].startswith("$$"):
            yield entry, value
