"""`comfy_execution.graph_utils`: building the graphs that nodes expand into."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from limner.graph import CURRENT_RUN

_PREFIX: ContextVar[tuple[str, int, int]] = ContextVar("limner_graph_prefix", default=("", 0, 0))


def is_link(obj: Any) -> bool:
    """Whether a value is a link, `[node id, slot]`."""
    return (
        isinstance(obj, list)
        and len(obj) == 2
        and isinstance(obj[0], str)
        and isinstance(obj[1], int | float)
        and not isinstance(obj[1], bool)
    )


class GraphBuilder:
    """A graph that is built node by node.

    prefix: put before every id; by default one that no other graph of this call has: `<node>.<call>.<graph>.`.
    """

    def __init__(self, prefix: str | None = None) -> None:
        self.prefix = GraphBuilder.alloc_prefix() if prefix is None else prefix
        self.nodes: dict[str, Node] = {}
        self.id_gen = 1

    @classmethod
    def set_default_prefix(cls, prefix_root: str, call_index: int, graph_index: int = 0) -> None:
        """The prefix of graphs made from now on in this call."""
        _PREFIX.set((prefix_root, call_index, graph_index))

    @classmethod
    def alloc_prefix(
        cls, root: str | None = None, call_index: int | None = None, graph_index: int | None = None
    ) -> str:
        """A prefix that no other graph of this call has."""
        known_root, known_call, known_graph = _PREFIX.get()
        run = CURRENT_RUN.get()
        here = run.node_id if run is not None else ""
        call = int(getattr(run, "list_index", None) or 0)
        if run is not None and (known_root, known_call) != (here, call):
            known_root, known_call, known_graph = here, call, 0
        _PREFIX.set((known_root, known_call, known_graph + 1))
        chosen = (
            known_root if root is None else root,
            known_call if call_index is None else call_index,
            known_graph if graph_index is None else graph_index,
        )
        return "{}.{}.{}.".format(*chosen)

    def node(self, class_type: str, id: str | None = None, **kwargs: Any) -> Node:  # noqa: A002 - ComfyUI's name
        """Add a node, or give the one of that id if it is there. Inputs are values or what `out` gives."""
        if id is None:
            id = str(self.id_gen)  # noqa: A001
            self.id_gen += 1
        full = self.prefix + id
        if full not in self.nodes:
            self.nodes[full] = Node(full, class_type, kwargs)
        return self.nodes[full]

    def lookup_node(self, id: str) -> Node | None:  # noqa: A002 - ComfyUI's name
        """The node of that id, without the prefix."""
        return self.nodes.get(self.prefix + id)

    def finalize(self) -> dict[str, Any]:
        """The graph, as `expand` takes it."""
        return {node: one.serialize() for node, one in self.nodes.items()}

    def replace_node_output(self, node_id: str, index: int, new_value: Any) -> None:
        """Put a value, or another link, where an output was used; None removes the inputs."""
        link = [self.prefix + node_id, index]
        for node in self.nodes.values():
            for name in [name for name, value in node.inputs.items() if is_link(value) and value == link]:
                if new_value is None:
                    del node.inputs[name]
                else:
                    node.inputs[name] = new_value

    def remove_node(self, id: str) -> None:  # noqa: A002 - ComfyUI's name
        """Take a node out. Raises KeyError when it is not there."""
        del self.nodes[self.prefix + id]


class Node:
    """A node of a graph that is built."""

    def __init__(self, id: str, class_type: str, inputs: Mapping[str, Any]) -> None:  # noqa: A002 - ComfyUI's name
        self.id = id
        self.class_type = class_type
        self.inputs = dict(inputs)
        self.override_display_id: str | None = None

    def out(self, index: int) -> list[Any]:
        """A link to an output."""
        return [self.id, index]

    def set_input(self, key: str, value: Any) -> None:
        """Set an input; None removes it."""
        if value is None:
            self.inputs.pop(key, None)
        else:
            self.inputs[key] = value

    def get_input(self, key: str) -> Any:
        """An input, or None."""
        return self.inputs.get(key)

    def set_override_display_id(self, override_display_id: str) -> None:
        """Show this node's progress at another node."""
        self.override_display_id = override_display_id

    def serialize(self) -> dict[str, Any]:
        """The node, as a prompt has it."""
        plain: dict[str, Any] = {"class_type": self.class_type, "inputs": dict(self.inputs)}
        if self.override_display_id is not None:
            plain["override_display_id"] = self.override_display_id
        return plain


def add_graph_prefix(graph: Mapping[str, Any], outputs: Any, prefix: str) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """A graph and its outputs with a prefix before every id."""

    def moved(value: Any) -> Any:
        return [prefix + value[0], value[1]] if is_link(value) else value

    nodes = {
        prefix + node: {**one, "inputs": {name: moved(value) for name, value in one.get("inputs", {}).items()}}
        for node, one in graph.items()
    }
    return nodes, tuple(moved(one) for one in outputs)
