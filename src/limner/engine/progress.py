"""How far the nodes of a run are, and the way a running node says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limner.engine.events import NodeProgress, NodeState, NodeText, Preview, Progress, ProgressState
from limner.engine.hub import EventHub
from limner.engine.previews import encode_preview
from limner.engine.queue import Job
from limner.errors import Interrupted
from limner.graph.dynamic import Made


class RunProgress:
    """The progress of one run: the `ProgressSink` of its nodes (rules P1 to P3).

    made: nodes that expansions have made, with whom they belong to (rule G4); it grows while the prompt runs.
    """

    def __init__(
        self, job: Job, hub: EventHub, preview_size: int = 512, made: Mapping[str, Made] | None = None
    ) -> None:
        self._job = job
        self._hub = hub
        self._preview_size = preview_size
        self._made = {} if made is None else made
        self._prompt_id = job.prompt_id
        self._client_id = job.client_id
        self._nodes: dict[str, NodeProgress] = {}
        # One object, kept: the hub tells by it whether a state is waiting already.
        self._make = self.snapshot

    def snapshot(self) -> ProgressState:
        """The state of every node entered so far. Any thread."""
        return ProgressState(self._prompt_id, self._client_id, self._nodes.copy())

    def enter(self, node: str) -> None:
        """The node is running."""
        self._set(node, "running", 0, 1)
        self._hub.push_state(self._make)

    def leave(self, node: str, state: NodeState = "finished") -> None:
        """The node is over: finished counts as all of its steps."""
        known = self._nodes.get(node)
        total = 1.0 if known is None else known.max
        value = total if state == "finished" or known is None else known.value
        self._set(node, state, value, total)
        self._hub.push_state(self._make)

    def _set(self, node: str, state: NodeState, value: float, total: float) -> None:
        made = self._made.get(node) if self._made else None
        if made is None:
            self._nodes[node] = NodeProgress(state, value, total)
        else:
            self._nodes[node] = NodeProgress(state, value, total, made.display, made.parent, made.real)

    def check(self) -> None:
        """Raise Interrupted when the prompt was interrupted."""
        if self._job.interrupted:
            raise Interrupted

    def progress(self, node_id: str, value: float, total: float, preview: Any | None = None) -> None:
        """Report `value` of `total` steps of a node done. Raises Interrupted when the prompt was interrupted."""
        self.check()
        self._set(node_id, "running", value, total)
        self._hub.push_state(self._make)
        if preview is not None:
            image, kind = encode_preview(preview, self._preview_size)
            made = self._made.get(node_id) or Made("", node_id, node_id)
            self._hub.push(
                Preview(
                    self._prompt_id, self._client_id, node_id, image, kind, made.display, made.parent or None, made.real
                )
            )
        self._hub.push(Progress(self._prompt_id, self._client_id, node_id, value, total))

    def tell(self, node_id: str, text: str) -> None:
        """Show a text at a node."""
        self._hub.push(NodeText(self._prompt_id, self._client_id, node_id, text))
