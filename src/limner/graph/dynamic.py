"""A prompt that grows while it runs: nodes return graphs that are run in their place (rules G1 to G7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from limner.graph.prompt import Link, NodeCall, clip


class NodeNotFoundError(Exception):
    """A node id that the prompt does not have."""

    wire_name = "comfy_execution.graph.NodeNotFoundError"


class DuplicateNodeError(Exception):
    """A graph that a node returned uses the id of a node that is there already (rule G1)."""

    wire_name = "comfy_execution.graph.DuplicateNodeError"


class DependencyCycleError(Exception):
    """Nodes wait for each other; only what nodes return while they run can bring that about (rule R5)."""

    wire_name = "graph.DependencyCycleError"


class NodeInputError(Exception):
    """A node asked for an input that it cannot be given (rule L3)."""

    wire_name = "comfy_execution.graph.NodeInputError"


class Made(NamedTuple):
    """Where a node that an expansion made belongs.

    parent: the node that returned it. real: the node of the prompt that stands at the root. display: the node that
    shows its progress.
    """

    parent: str
    real: str
    display: str


class DynamicPrompt:
    """The prompt as sent and what nodes have added to it. `made` has what there is to know of each added node.

    It is what a hidden DYNPROMPT input gives: nodes that clone parts of the graph look at it (rule G7).
    """

    def __init__(self, original: Mapping[str, Any]) -> None:
        self.made: dict[str, Made] = {}
        self._original = original
        self._added: dict[str, Mapping[str, Any]] = {}

    def get_node(self, node_id: str) -> Mapping[str, Any]:
        """`{"class_type", "inputs"}` of a node. Raises NodeNotFoundError."""
        found = self._added.get(node_id) or self._original.get(node_id)
        if found is None:
            raise NodeNotFoundError(f"Node {clip(node_id)} not found")
        node: Mapping[str, Any] = found
        return node

    def has_node(self, node_id: str) -> bool:
        """Whether there is such a node."""
        return node_id in self._original or node_id in self._added

    def add_ephemeral_node(
        self, node_id: str, node_info: Mapping[str, Any], parent_id: str, display_id: str | None = None
    ) -> None:
        """Take in a node that another returned. display_id: which node shows its progress, by default its parent's."""
        made = self.made
        shown = parent_id if display_id is None else display_id
        made[node_id] = Made(parent_id, self.get_real_node_id(parent_id), self.get_display_node_id(shown))
        self._added[node_id] = node_info

    def get_real_node_id(self, node_id: str) -> str:
        """The node of the original prompt that a node belongs to."""
        made = self.made.get(node_id)
        return node_id if made is None else made.real

    def get_parent_node_id(self, node_id: str) -> str | None:
        """The node that returned it, None for one of the original prompt."""
        made = self.made.get(node_id)
        return None if made is None else made.parent

    def get_display_node_id(self, node_id: str) -> str:
        """The node that shows its progress (rule G4)."""
        made = self.made.get(node_id)
        return node_id if made is None else made.display

    def all_node_ids(self) -> set[str]:
        """Every node, original and added."""
        return {*self._original, *self._added}

    def get_original_prompt(self) -> Mapping[str, Any]:
        """The prompt as sent, with values converted."""
        return self._original

    def grow(self, parent: str, graph: Mapping[str, Any], again: Iterable[str] = ()) -> dict[str, NodeCall]:
        """Take in a graph that a node returned; its calls by id.

        again: ids that this node has returned in an earlier run of it within this prompt, which it may replace.
        Raises DuplicateNodeError, and TypeError for a graph that is none.
        """
        calls = {node: made_call(node, info) for node, info in graph.items()}
        old = frozenset(again)
        for node in calls:
            if self.has_node(node) and node not in old:
                raise DuplicateNodeError(
                    f"Node {clip(parent)} returned a graph with a node {clip(node)}, and there is one of that id. Let "
                    "GraphBuilder choose the ids, or use its prefix."
                )
        for node, info in graph.items():
            self.add_ephemeral_node(node, info, parent, info.get("override_display_id"))
        return calls


def made_call(node: Any, info: Any) -> NodeCall:
    """A node of a returned graph. Its inputs may be any object; only `[id, place]` is a link (rule G6)."""
    kind = info.get("class_type") if isinstance(info, Mapping) else None
    if not isinstance(node, str) or not isinstance(kind, str):
        raise TypeError(f"A returned graph needs {{id: {{'class_type', 'inputs'}}}} with texts, not {clip(node)}.")
    inputs = {name: read_link(value) or value for name, value in (info.get("inputs") or {}).items()}
    return NodeCall(kind, inputs, {key: value for key, value in info.items() if key == "is_changed"})


def read_link(value: Any) -> Link | None:
    """A link as nodes write it, `[id, place]` with a place that may be a float; None for anything else."""
    if type(value) is list and len(value) == 2 and isinstance(value[0], str) and type(value[1]) in (int, float):
        return Link(value[0], int(value[1]))
    return None
