"""A UI workflow becomes a prompt: every node that runs, with its widget values and where its wires come from."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any, Protocol

from limner.errors import NotFound
from limner.graph.convert.links import VIRTUAL, Source, follow
from limner.graph.convert.scopes import Scope, open_scopes
from limner.graph.convert.widgets import own_values, unknown_values, widget_ports
from limner.graph.convert.workflow import UiNode, read_workflow
from limner.graph.schema import Schema

_PROVENANCE = ("cnr_id", "aux_id", "ver")


class Schemas(Protocol):
    """Where schemas are looked up by kind."""

    def get(self, kind: str) -> Schema | None:
        """The schema of that kind, or None."""


class MissingNodeTypes(NotFound):
    """A workflow uses nodes that are not installed. missing: (node id, class, title) of each."""

    error_type = "missing_node_type"

    def __init__(self, missing: list[tuple[str, str, str]]) -> None:
        kinds = sorted({kind for _, kind, _ in missing})
        where = ", ".join(f"#{node}" for node, _, _ in missing[:10])
        super().__init__(
            f"Unknown node types: {', '.join(kinds)}.",
            why=f"Used by {where}{' and more' if len(missing) > 10 else ''}.",
            do="Install the node packs they come from, or remove these nodes.",
        )
        self.missing = missing


class _Known:
    """The kinds of a registry, as a container. all_but: every kind counts as known that is not one of these."""

    def __init__(self, schemas: Schemas, all_but: Container[str] | None = None) -> None:
        self._schemas = schemas
        self._all_but = all_but

    def __contains__(self, kind: object) -> bool:
        if not isinstance(kind, str):
            return False
        return self._schemas.get(kind) is not None or (self._all_but is not None and kind not in self._all_but)


def convert_workflow(workflow: Mapping[str, Any], schemas: Schemas, *, allow_unknown: bool = False) -> dict[str, Any]:
    """The prompt, `{id: {"class_type", "inputs", "_meta"}}`, that the front end would send for this workflow.

    Nodes inside subgraphs get ids of the form "57:8". Text expansion (`%date%`, `{a|b}`) is the client's and not done.
    allow_unknown: nodes without a schema are converted too, with those widget values that the file itself names.
    Raises MissingNodeTypes when nodes that would run are unknown, BadInput when the file is not laid out as a workflow
    or its wires or subgraphs run in a circle.
    """
    graph, definitions = read_workflow(workflow)
    known = _Known(schemas, VIRTUAL if allow_unknown else None)
    prompt: dict[str, Any] = {}
    missing: list[tuple[str, str, str]] = []
    for scope, node in _running(open_scopes(graph, definitions)):
        if node.type in VIRTUAL and node.type not in known:
            continue
        schema = schemas.get(node.type)
        if schema is None and not allow_unknown:
            missing.append((f"{scope.prefix}{node.id}", node.type, node.title or node.type))
            continue
        prompt[f"{scope.prefix}{node.id}"] = {
            "class_type": node.type,
            "inputs": _inputs(scope, node, schema, known),
            "_meta": _meta(node, schema),
        }
    if missing:
        raise MissingNodeTypes(missing)
    return prompt


def _running(top: Scope) -> Iterator[tuple[Scope, UiNode]]:
    """The nodes that run, in the order of the file, those of a subgraph in the place of its instance."""
    waiting = [(top, iter(top.graph.nodes.values()))]
    while waiting:
        scope, nodes = waiting[-1]
        node = next(nodes, None)
        if node is None:
            waiting.pop()
        elif node.id in scope.children:
            child = scope.children[node.id]
            waiting.append((child, iter(child.graph.nodes.values())))
        elif node.runs:
            yield scope, node


def _inputs(scope: Scope, node: UiNode, schema: Schema | None, known: _Known) -> dict[str, Any]:
    if schema is None:
        values = unknown_values(node)
        widgets = {socket.widget for socket in node.inputs if socket.widget} | set(values)
    else:
        values = own_values(node, schema)
        widgets = {port.name for port in widget_ports(schema)}
    values.update((o.widget, o.value) for o in scope.overrides_of(node) if o.widget in widgets)
    inputs = {name: _wrapped(value) for name, value in values.items()}
    for socket in node.inputs:
        if socket.link is None:
            continue
        arriving = follow(scope, socket, known)
        if isinstance(arriving, Source):
            inputs[socket.name] = [arriving.node, arriving.slot]
        elif arriving is not None:
            inputs[socket.name] = _wrapped(arriving.value)
    return inputs


def _wrapped(value: Any) -> Any:
    """A list is wrapped, so that it is not taken for a link."""
    return {"__value__": value} if isinstance(value, list) else value


def _meta(node: UiNode, schema: Schema | None) -> dict[str, str]:
    found = {key: node.properties[key] for key in _PROVENANCE if isinstance(node.properties.get(key), str)}
    return {"title": node.title or (schema.title if schema else "") or node.type, **found}
