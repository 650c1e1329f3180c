"""`comfy_execution`: prompts as node code sees them, and the context of the node that runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple

from limner.compat.host import current
from limner.graph import CURRENT_RUN, Prompt, kinds_match, parse
from limner.graph.plan import Schedule

MARKERS = ("UNIQUE_ID",)


class DependencyCycleError(Exception):
    """Nodes depend on each other in a cycle."""


class NodeNotFoundError(Exception):
    """There is no node of that id."""


class DynamicPrompt:
    """A prompt and the nodes that were added while it ran. A node of the prompt wins over an added one."""

    def __init__(self, original_prompt: dict[str, Any]) -> None:
        self.original_prompt = original_prompt
        self.ephemeral_prompt: dict[str, Any] = {}
        self.ephemeral_parents: dict[str, str] = {}
        self.ephemeral_display: dict[str, str] = {}

    def get_node(self, node_id: str) -> dict[str, Any]:
        """The node. Raises NodeNotFoundError."""
        for nodes in (self.ephemeral_prompt, self.original_prompt):
            if node_id in nodes:
                return nodes[node_id]  # type: ignore[no-any-return]  # JSON
        raise NodeNotFoundError(f"Node {node_id} not found")

    def has_node(self, node_id: str) -> bool:
        """Whether there is a node of that id."""
        return node_id in self.original_prompt or node_id in self.ephemeral_prompt

    def add_ephemeral_node(self, node_id: str, node_info: dict[str, Any], parent_id: str, display_id: str) -> None:
        """Add a node that another made."""
        self.ephemeral_prompt[node_id] = node_info
        self.ephemeral_parents[node_id] = parent_id
        self.ephemeral_display[node_id] = display_id

    def get_real_node_id(self, node_id: str) -> str:
        """The node of the prompt that a node comes from."""
        while node_id in self.ephemeral_parents:
            node_id = self.ephemeral_parents[node_id]
        return node_id

    def get_parent_node_id(self, node_id: str) -> str | None:
        """The node that made it, None for one of the prompt."""
        return self.ephemeral_parents.get(node_id)

    def get_display_node_id(self, node_id: str) -> str:
        """The node at which its progress is shown."""
        while node_id in self.ephemeral_display:
            node_id = self.ephemeral_display[node_id]
        return node_id

    def all_node_ids(self) -> set[str]:
        """Every id."""
        return {*self.original_prompt, *self.ephemeral_prompt}

    def get_original_prompt(self) -> dict[str, Any]:
        """The prompt without what was added."""
        return self.original_prompt


def get_input_info(
    class_def: Any, input_name: str, valid_inputs: Mapping[str, Any] | None = None
) -> tuple[Any, str | None, Mapping[str, Any] | None]:
    """Type, section and options of an input; three times None where there is none of that name."""
    types = valid_inputs or class_def.INPUT_TYPES()
    for section in ("required", "optional", "hidden"):
        specs = types.get(section) or {}
        if input_name in specs:
            spec = specs[input_name]
            parts = spec if isinstance(spec, list | tuple) else (spec,)
            return parts[0], section, parts[1] if len(parts) > 1 and isinstance(parts[1], Mapping) else {}
    return None, None, None


class TopologicalSort:
    """An order of a prompt's nodes in which each comes after what it needs."""

    def __init__(self, dynprompt: DynamicPrompt) -> None:
        self.dynprompt = dynprompt
        self._roots: list[str] = []

    def get_input_info(self, unique_id: str, input_name: str) -> tuple[Any, str | None, Mapping[str, Any] | None]:
        """Type, section and options of a node's input."""
        import nodes  # type: ignore[import-not-found]  # noqa: PLC0415 - a virtual module

        kind = self.dynprompt.get_node(unique_id)["class_type"]
        return get_input_info(nodes.NODE_CLASS_MAPPINGS[kind], input_name)

    def add_node(self, node_unique_id: str, include_lazy: bool = False, subgraph_nodes: Any = None) -> None:
        """Want a node, and what it needs."""
        del include_lazy, subgraph_nodes
        self._roots.append(node_unique_id)

    def is_cached(self, node_id: str) -> bool:
        """Whether a result is there already: none is."""
        del node_id
        return False

    def order(self) -> Iterator[str]:
        """The nodes in order."""
        every = {**self.dynprompt.ephemeral_prompt, **self.dynprompt.original_prompt}
        host = current()
        parsed: Prompt = parse(every, host.engine.registry if host.engine is not None else host.registry)
        schedule = Schedule(parsed, self._roots)
        while (node := schedule.next()) is not None:
            yield node
            schedule.done(node)

    def get_ready_nodes(self) -> list[str]:
        """The first node that needs nothing."""
        return [next(self.order())] if self._roots else []

    def is_empty(self) -> bool:
        """Whether no node is wanted."""
        return not self._roots


class ExecutionList(TopologicalSort):
    """An order with the results that are there. output_cache: has `get(node_id)`."""

    def __init__(self, dynprompt: DynamicPrompt, output_cache: Any) -> None:
        super().__init__(dynprompt)
        self.output_cache = output_cache

    def is_cached(self, node_id: str) -> bool:
        """Whether there is a result."""
        return self.output_cache.get(node_id) is not None

    def get_cache(self, from_node_id: str, to_node_id: str) -> Any:
        """The result of a node, for a node that is wired to it; or None."""
        del to_node_id
        return self.output_cache.get(from_node_id)


def validate_node_input(received_type: str, input_type: str, strict: bool = False) -> bool:
    """Whether an output of one type fits an input of another; `strict`: whether all its members do."""
    if not received_type != input_type:  # noqa: SIM202 - packs override `!=` alone
        return True
    if not isinstance(received_type, str) or not isinstance(input_type, str):
        return False
    if strict:
        wanted = {one.strip() for one in input_type.split(",")}
        return {one.strip() for one in received_type.split(",")} <= wanted
    return kinds_match(received_type, input_type)


class ExecutionContext(NamedTuple):
    """Which call of which node of which prompt this is."""

    prompt_id: str
    node_id: str
    list_index: int | None


def get_executing_context() -> ExecutionContext | None:
    """The call that is going on, None outside of nodes."""
    run = CURRENT_RUN.get()
    return None if run is None else ExecutionContext(run.prompt_id, run.node_id, getattr(run, "list_index", None))


class CurrentNodeContext(AbstractContextManager["CurrentNodeContext"]):
    """Attribute what happens within to a node: for code that runs nodes itself."""

    def __init__(self, prompt_id: str, node_id: str, list_index: int | None = None) -> None:
        self.context = ExecutionContext(prompt_id, node_id, list_index)
        self._token: Any = None

    def __enter__(self) -> CurrentNodeContext:
        run = CURRENT_RUN.get() or current().run()
        self._token = CURRENT_RUN.set(replace(run, prompt_id=self.context.prompt_id, node_id=self.context.node_id))
        return self

    def __exit__(self, *_: object) -> None:
        CURRENT_RUN.reset(self._token)


class Unhashable:
    """A value that equals nothing."""

    def __init__(self) -> None:
        self.value = float("NaN")


def to_hashable(obj: Any) -> Any:
    """Numbers and texts as they are, dicts and lists structurally, anything else as `Unhashable`."""
    if isinstance(obj, int | float | str | bool | bytes | type(None)):
        return obj
    if isinstance(obj, Mapping):
        return frozenset((to_hashable(key), to_hashable(value)) for key, value in sorted(obj.items(), key=str))
    if isinstance(obj, list | tuple):
        return frozenset(zip(range(len(obj)), map(to_hashable, obj), strict=True))
    return Unhashable()


def include_unique_id_in_input(class_type: str) -> bool:
    """Whether a class asks for its node's id, so that two equal nodes are two results."""
    import nodes  # noqa: PLC0415 - a virtual module

    hidden = nodes.NODE_CLASS_MAPPINGS[class_type].INPUT_TYPES().get("hidden") or {}
    return any(marker in MARKERS for marker in hidden.values())
