"""What happens to prompts, as values: a closed set. The server gives them their wire form, the history keeps some.

Every event has `prompt_id` ("" where it is about no prompt) and `client_id`: the client it is for, None for everyone.
Times are milliseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

NodeState = Literal["pending", "running", "finished", "error"]


class NodeProgress(NamedTuple):
    """How far one node is. display_node, real_node: other ids where an expansion made it; "" for its own id."""

    state: NodeState
    value: float
    max: float
    display_node: str = ""
    parent_node: str | None = None
    real_node: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """What every event says: which prompt it is about, and which client it is for (None: everyone)."""

    type: ClassVar[str] = ""

    prompt_id: str
    client_id: str | None

    def data(self) -> dict[str, Any]:
        """The `data` of the message on the wire."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class StatusChanged(Event):
    """The queue changed. queue_remaining: prompts waiting and running."""

    type: ClassVar[str] = "status"
    queue_remaining: int = 0

    def data(self) -> dict[str, Any]:
        """The `data` of the message on the wire."""
        return {"status": {"exec_info": {"queue_remaining": self.queue_remaining}}}


@dataclass(frozen=True, slots=True)
class ExecutionStart(Event):
    """A prompt's run begins."""

    type: ClassVar[str] = "execution_start"
    timestamp: int = 0

    def data(self) -> dict[str, Any]:
        """The `data` of the message on the wire."""
        return {"prompt_id": self.prompt_id, "timestamp": self.timestamp}


@dataclass(frozen=True, slots=True)
class ExecutionCached(Event):
    """Which nodes of the prompt had their results already, in prompt order."""

    type: ClassVar[str] = "execution_cached"
    nodes: Sequence[str] = ()
    timestamp: int = 0

    def data(self) -> dict[str, Any]:
        """The `data` of the message on the wire."""
        return {"nodes": list(self.nodes), "prompt_id": self.prompt_id, "timestamp": self.timestamp}


@dataclass(frozen=True, slots=True)
class Executing(Event):
    """A node is entered, or with `node` None: the prompt is over and in the history."""

    type: ClassVar[str] = "executing"
    node: str | None = None
    display_node: str | None = None

    def data(self) -> dict[str, Any]:
        """The `data` of the message on the wire."""
        if self.node is None:
            return {"node": None, "prompt_id": self.prompt_id}
        return {"node": self.node, "display_node": self.display_node, "prompt_id": self.prompt_id}


@dataclass(frozen=True, slots=True)
class Progress(Event):
    """A node's own progress."""

    type: ClassVar[str] = "progress"
    node: str = ""
    value: float = 0
    max: float = 1

    def data(self) -> dict[str, Any]:
        """The `data` of the message on the wire."""
        return {"value": self.value, "max": self.max, "prompt_id": self.prompt_id, "node": self.node}


@dataclass(frozen=True, slots=True)
class ProgressState(Event):
    """How far every node of the run is that was entered so far. At most ten a second, and the last."""

    type: ClassVar[str] = "progress_state"
    nodes: Mapping[str, NodeProgress] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """The `data` of the message on the wire."""
        prompt_id = self.prompt_id
        return {
            "prompt_id": prompt_id,
            "nodes": {
                node: {
                    "value": value,
                    "max": total,
                    "state": state,
                    "node_id": node,
                    "prompt_id": prompt_id,
                    "display_node_id": display or node,
                    "parent_node_id": parent,
                    "real_node_id": real or node,
                }
                for node, (state, value, total, display, parent, real) in self.nodes.items()
            },
        }


@dataclass(frozen=True, slots=True)
class Executed(Event):
    """A node has something to show, or its cached result was reached (then `output` may be None)."""

    type: ClassVar[str] = "executed"
    node: str = ""
    display_node: str = ""
    output: Mapping[str, Any] | None = None

    def data(self) -> dict[str, Any]:
        """The `data` of the message on the wire."""
        return {
            "node": self.node,
            "display_node": self.display_node,
            "output": self.output,
            "prompt_id": self.prompt_id,
        }


@dataclass(frozen=True, slots=True)
class ExecutionSuccess(Event):
    """Every node asked for has run."""

    type: ClassVar[str] = "execution_success"
    timestamp: int = 0

    def data(self) -> dict[str, Any]:
        """The `data` of the message on the wire."""
        return {"prompt_id": self.prompt_id, "timestamp": self.timestamp}


@dataclass(frozen=True, slots=True)
class ExecutionError(Event):
    """A node failed, and with it the run. timestamp None: only a blocked branch, the run goes on."""

    type: ClassVar[str] = "execution_error"
    node_id: str = ""
    node_type: str = ""
    executed: Sequence[str] = ()
    exception_message: str = ""
    exception_type: str = ""
    traceback: Sequence[str] = ()
    current_inputs: Mapping[str, Any] = field(default_factory=dict)
    current_outputs: Sequence[str] = ()
    timestamp: int | None = None

    def data(self) -> dict[str, Any]:
        """The `data` of the message on the wire."""
        plain: dict[str, Any] = {
            "prompt_id": self.prompt_id,
            "node_id": self.node_id,
            "node_type": self.node_type,
            "executed": list(self.executed),
            "exception_message": self.exception_message,
            "exception_type": self.exception_type,
            "traceback": list(self.traceback),
            "current_inputs": dict(self.current_inputs),
            "current_outputs": list(self.current_outputs),
        }
        return plain if self.timestamp is None else {**plain, "timestamp": self.timestamp}


@dataclass(frozen=True, slots=True)
class ExecutionInterrupted(Event):
    """The run was interrupted on request while that node was running or about to."""

    type: ClassVar[str] = "execution_interrupted"
    node_id: str = ""
    node_type: str = ""
    executed: Sequence[str] = ()
    timestamp: int = 0

    def data(self) -> dict[str, Any]:
        """The `data` of the message on the wire."""
        return {
            "prompt_id": self.prompt_id,
            "node_id": self.node_id,
            "node_type": self.node_type,
            "executed": list(self.executed),
            "timestamp": self.timestamp,
        }


@dataclass(frozen=True, slots=True)
class Preview(Event):
    """A picture of work in progress, encoded. It comes before the `Progress` of the same step.

    image: the bytes of a file of type `image_type` (image/jpeg or image/png).
    """

    type: ClassVar[str] = "preview"
    node: str = ""
    image: bytes = b""
    image_type: str = "image/jpeg"
    display_node: str = ""
    parent_node: str | None = None
    real_node: str = ""

    def data(self) -> dict[str, Any]:
        """The metadata of the binary frame with metadata."""
        return {
            "node_id": self.node,
            "prompt_id": self.prompt_id,
            "display_node_id": self.display_node or self.node,
            "parent_node_id": self.parent_node,
            "real_node_id": self.real_node or self.node,
            "image_type": self.image_type,
        }


@dataclass(frozen=True, slots=True)
class NodeText(Event):
    """A text to show at a node while it runs."""

    type: ClassVar[str] = "progress_text"
    node: str = ""
    text: str = ""

    def data(self) -> dict[str, Any]:
        """What the binary frame says."""
        return {"node": self.node, "text": self.text, "prompt_id": self.prompt_id}
