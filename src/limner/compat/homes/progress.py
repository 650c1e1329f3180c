"""`comfy_execution.progress`: handlers that packs register, and the progress of the running node."""

from __future__ import annotations

import enum
from typing import Any, TypedDict

from limner.compat.host import Host, current
from limner.graph import CURRENT_RUN


class NodeState(enum.Enum):
    """How far a node is."""

    Pending = "pending"
    Running = "running"
    Finished = "finished"
    Error = "error"


class NodeProgressState(TypedDict):
    """The progress of a node."""

    state: NodeState
    value: float
    max: float


class ProgressHandler:
    """Is told how far nodes are."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.enabled = True
        self.registry: ProgressRegistry | None = None

    def set_registry(self, registry: ProgressRegistry) -> None:
        """The registry that tells it."""
        self.registry = registry

    def start_handler(self, node_id: str, state: NodeProgressState, prompt_id: str) -> None:
        """A node begins."""

    def update_handler(
        self, node_id: str, value: float, max_value: float, state: NodeProgressState, prompt_id: str, image: Any = None
    ) -> None:
        """A node has come further."""

    def finish_handler(self, node_id: str, state: NodeProgressState, prompt_id: str) -> None:
        """A node is over."""

    def reset(self) -> None:
        """Another prompt begins."""

    def enable(self) -> None:
        """Tell it again."""
        self.enabled = True

    def disable(self) -> None:
        """Tell it nothing."""
        self.enabled = False


class CLIProgressHandler(ProgressHandler):
    """Progress on the terminal; Limner's own is in its log."""

    def __init__(self) -> None:
        super().__init__("cli")


class WebUIProgressHandler(ProgressHandler):
    """Progress for the front end; Limner's own events reach it."""

    def __init__(self, server_instance: Any) -> None:
        super().__init__("webui")
        self.server_instance = server_instance


class ProgressRegistry:
    """The progress of one prompt's nodes; what is told here reaches the clients and the handlers."""

    def __init__(self, prompt_id: str, dynprompt: Any) -> None:
        self.prompt_id = prompt_id
        self.dynprompt = dynprompt
        self.nodes: dict[str, NodeProgressState] = {}
        self.handlers: dict[str, ProgressHandler] = {}

    def register_handler(self, handler: ProgressHandler) -> None:
        """Tell it from now on."""
        self.handlers[handler.name] = handler
        handler.set_registry(self)

    def unregister_handler(self, handler_name: str) -> None:
        """Tell it no more."""
        self.handlers.pop(handler_name, None)

    def enable_handler(self, handler_name: str) -> None:
        """Tell it again."""
        if handler_name in self.handlers:
            self.handlers[handler_name].enable()

    def disable_handler(self, handler_name: str) -> None:
        """Tell it nothing for a while."""
        if handler_name in self.handlers:
            self.handlers[handler_name].disable()

    def ensure_entry(self, node_id: str) -> NodeProgressState:
        """The progress of a node."""
        return self.nodes.setdefault(node_id, {"state": NodeState.Pending, "value": 0, "max": 1})

    def start_progress(self, node_id: str) -> None:
        """A node begins."""
        entry = self.ensure_entry(node_id)
        entry.update({"state": NodeState.Running, "value": 0, "max": 1})
        for handler in self._listening():
            handler.start_handler(node_id, entry, self.prompt_id)

    def update_progress(self, node_id: str, value: float, max_value: float, image: Any = None) -> None:
        """A node has come further: clients are told. Raises Interrupted when the prompt was interrupted."""
        entry = self.ensure_entry(node_id)
        entry.update({"state": NodeState.Running, "value": value, "max": max_value})
        run = CURRENT_RUN.get()
        if run is not None:
            run.sink.progress(node_id, value, max_value, image[1] if isinstance(image, tuple) else image)
        for handler in self._listening():
            handler.update_handler(node_id, value, max_value, entry, self.prompt_id, image)

    def finish_progress(self, node_id: str) -> None:
        """A node is over."""
        entry = self.ensure_entry(node_id)
        entry.update({"state": NodeState.Finished, "value": entry["max"]})
        for handler in self._listening():
            handler.finish_handler(node_id, entry, self.prompt_id)

    def reset_handlers(self) -> None:
        """Another prompt begins."""
        for handler in self.handlers.values():
            handler.reset()

    def _listening(self) -> list[ProgressHandler]:
        return [handler for handler in self.handlers.values() if handler.enabled]


def _make(_: Host) -> ProgressRegistry:
    return ProgressRegistry("", None)


def get_progress_state() -> ProgressRegistry:
    """The registry of the running prompt; handlers stay from prompt to prompt."""
    host = current()
    registry: ProgressRegistry = host.part("progress", _make)
    run = CURRENT_RUN.get()
    if run is not None and run.prompt_id != registry.prompt_id:
        handlers = registry.handlers
        registry = host.parts["progress"] = ProgressRegistry(run.prompt_id, None)
        for handler in handlers.values():
            handler.reset()
            registry.register_handler(handler)
    return registry


def reset_progress_state(prompt_id: str, dynprompt: Any) -> None:
    """Begin anew for a prompt."""
    old: ProgressRegistry = current().part("progress", _make)
    fresh = current().parts["progress"] = ProgressRegistry(prompt_id, dynprompt)
    for handler in old.handlers.values():
        handler.reset()
        fresh.register_handler(handler)


def add_progress_handler(handler: ProgressHandler) -> None:
    """Tell a handler of progress."""
    get_progress_state().register_handler(handler)
    handler.reset()


def __getattr__(name: str) -> Any:
    if name == "global_progress_registry":
        return get_progress_state()
    raise AttributeError(f"comfy_execution.progress has no {name}.")
