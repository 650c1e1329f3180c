"""A UI workflow as values: graphs of nodes and wires, the same for both versions of the format.

Version 0.4 writes wires as lists of six, version 1 and every subgraph as objects; ids are numbers or text. Here ids
are text, and what is only drawing (positions, groups, reroute points) is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from limner.errors import BadInput

ANY = "*"
MUTED = 2
BYPASSED = 4
INSIDE = "-10"
"""The node id that stands for a subgraph's inputs, seen from inside."""
OUTSIDE = "-20"
"""The node id that stands for a subgraph's outputs, seen from inside."""


@dataclass(frozen=True)
class Socket:
    """An input or output. kind: `*` for anything. link: the wire into an input. widget: whose widget it stands for."""

    name: str
    kind: str
    link: str | None = None
    widget: str | None = None


@dataclass(frozen=True)
class Wire:
    """From output `origin_slot` of node `origin` to input `target_slot` of node `target`."""

    origin: str
    origin_slot: int
    target: str
    target_slot: int


@dataclass(frozen=True)
class UiNode:
    """A node as saved. values: its widgets in order, or by name; named: by name, where newer files have both."""

    id: str
    type: str
    mode: int = 0
    title: str = ""
    inputs: tuple[Socket, ...] = ()
    outputs: tuple[Socket, ...] = ()
    values: list[Any] | dict[str, Any] | None = None
    named: dict[str, Any] | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        """Whether it is neither muted nor bypassed."""
        return self.mode not in (MUTED, BYPASSED)

    def value_list(self) -> list[Any]:
        """The widget values in order; empty where they were not saved so."""
        return self.values if isinstance(self.values, list) else []


@dataclass(frozen=True)
class Graph:
    """Nodes and wires by id; for a subgraph also its name and what it takes and gives."""

    nodes: Mapping[str, UiNode]
    wires: Mapping[str, Wire]
    name: str = ""
    inputs: tuple[Socket, ...] = ()
    outputs: tuple[Socket, ...] = ()


def read_workflow(data: Mapping[str, Any]) -> tuple[Graph, dict[str, Graph]]:
    """The root graph of a UI workflow, and its subgraphs by id, nested ones too.

    Raises BadInput where the file is not laid out as one.
    """
    found: dict[str, Graph] = {}
    waiting = [data]
    while waiting:
        holder = waiting.pop()
        definitions = holder.get("definitions") or {}
        for plain in _objects(definitions, "subgraphs", "the definitions"):
            found[str(plain.get("id"))] = read_graph(plain)
            waiting.append(plain)
    return read_graph(data), found


def read_graph(data: Mapping[str, Any]) -> Graph:
    """One graph: the root of a workflow, or a subgraph's definition."""
    name = str(data.get("name") or "")
    where = f"the subgraph {name!r}" if name else "the workflow"
    nodes = [_read_node(plain, where) for plain in _objects(data, "nodes", where)]
    return Graph(
        nodes={node.id: node for node in nodes},
        wires=dict(_read_wires(data.get("links"), where)),
        name=name,
        inputs=_read_sockets(data, "inputs", where),
        outputs=_read_sockets(data, "outputs", where),
    )


def _objects(data: Any, key: str, where: str) -> list[Mapping[str, Any]]:
    """The list of objects under `key`; empty where it is absent."""
    if not isinstance(data, Mapping):
        raise _malformed(where, f"is {type(data).__name__}, not an object")
    items = data.get(key)
    if items is None:
        return []
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise _malformed(where, f"`{key}` is not a list of objects")
    return items


def _malformed(where: str, what: str) -> BadInput:
    return BadInput(
        f"The file is not a workflow: in {where}, {what}.",
        do="Save the workflow again from the browser.",
    )


def _read_node(plain: Mapping[str, Any], where: str) -> UiNode:
    if not isinstance(plain.get("id"), int | str) or not isinstance(plain.get("type"), str):
        raise _malformed(where, f"a node has the id {plain.get('id')!r} and the type {plain.get('type')!r}")
    where = f"node {plain['id']} of {where}"
    values, named, properties = (plain.get(key) for key in ("widgets_values", "widgets_values_named", "properties"))
    return UiNode(
        id=str(plain["id"]),
        type=plain["type"],
        mode=plain["mode"] if isinstance(plain.get("mode"), int) else 0,
        title=plain["title"] if isinstance(plain.get("title"), str) else "",
        inputs=_read_sockets(plain, "inputs", where),
        outputs=_read_sockets(plain, "outputs", where),
        values=values if isinstance(values, list | dict) else None,
        named=named if isinstance(named, dict) else None,
        properties=properties if isinstance(properties, Mapping) else {},
    )


def _read_sockets(plain: Mapping[str, Any], key: str, where: str) -> tuple[Socket, ...]:
    sockets = []
    for socket in _objects(plain, key, where):
        link, widget = socket.get("link"), socket.get("widget")
        sockets.append(
            Socket(
                name=str(socket.get("name", "")),
                kind=_read_kind(socket.get("type")),
                link=None if link is None else str(link),
                widget=str(widget.get("name", "")) if isinstance(widget, Mapping) else None,
            )
        )
    return tuple(sockets)


def _read_kind(kind: Any) -> str:
    """A socket's type: text, a list of alternatives, or a number in old files; nothing at all is anything."""
    if isinstance(kind, list):
        return ",".join(str(member) for member in kind)
    return str(kind) if kind else ANY


def _read_wires(links: Any, where: str) -> Iterator[tuple[str, Wire]]:
    if isinstance(links, Mapping):
        links = list(links.values())
    for link in links if isinstance(links, list) else []:
        if link is None:  # deleted links leave holes in some old files
            continue
        if isinstance(link, Mapping):
            keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
            values = [link.get(key) for key in keys]
        else:
            values = list(link[:5]) if isinstance(link, list) else []
        if len(values) != 5 or not all(isinstance(value, int | str) for value in values[:2]):
            raise _malformed(where, f"the link {str(link)[:80]} cannot be read")
        name, origin, origin_slot, target, target_slot = values
        yield str(name), Wire(str(origin), _slot(origin_slot), str(target), _slot(target_slot))


def _slot(value: Any) -> int:
    """A slot's number; -1, which no socket has, for what is none."""
    return value if isinstance(value, int) else int(value) if isinstance(value, str) and value.isdecimal() else -1
