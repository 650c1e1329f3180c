"""What the nodes of a run show: for the client, for the history, and again when a result comes from the cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from limner.engine.cache import Entry, Inner, Shown
from limner.engine.events import Executed
from limner.graph import DynamicPrompt

if TYPE_CHECKING:
    from limner.engine.hub import EventHub
    from limner.engine.queue import Job


class Shows:
    """outputs, meta: what the history has, by node. Nodes that an expansion made are remembered for their parents."""

    def __init__(self, job: Job, hub: EventHub, dynamic: DynamicPrompt) -> None:
        self.outputs: dict[str, Any] = {}
        self.meta: dict[str, Any] = {}
        self._job = job
        self._hub = hub
        self._made = dynamic.made
        self._inner: dict[str, list[Shown | Inner]] = {}

    def identity(self, node: str) -> dict[str, Any]:
        """Who a node is, as the history says it (rule G4)."""
        made = self._made.get(node)
        if made is None:
            return {"node_id": node, "display_node": node, "parent_node": None, "real_node_id": node}
        return {
            "node_id": node,
            "display_node": made.display,
            "parent_node": made.parent,
            "real_node_id": made.real,
        }

    def tell(self, node: str, ui: Mapping[str, Any] | None) -> None:
        """Tell the client what a node shows; None for a cached one that shows nothing."""
        if self._job.client_id is not None:
            made = self._made.get(node)
            shown = node if made is None else made.display
            self._hub.push(Executed(self._job.prompt_id, self._job.client_id, node, shown, ui))

    def note(self, node: str, entry: Entry) -> None:
        """Put what a node shows into the history."""
        if entry.ui is None:
            return
        self.outputs[node] = entry.ui
        self.meta[node] = entry.meta
        if node in self._made:
            self._remember(node, Shown(node, entry.ui, entry.meta))

    def served(self, node: str, entry: Entry) -> None:
        """A node's result comes from the cache: tell what it shows, and what was shown in its place (C10, C11)."""
        self.note(node, entry)
        self.again(node, entry)
        if entry.inner and node in self._made:
            self._remember(node, entry.inner)
        self.tell(node, entry.ui)

    def again(self, node: str, entry: Entry) -> None:
        """Tell what nodes showed that ran in this one's place, unless it was told."""
        waiting = list(reversed(entry.inner))
        while waiting:
            one = waiting.pop()
            if not isinstance(one, Shown):
                waiting.extend(reversed(one))
            elif one.node not in self.outputs:
                self.outputs[one.node], self.meta[one.node] = one.ui, one.meta
                if self._job.client_id is not None:
                    shown = one.meta.get("display_node", node)
                    self._hub.push(Executed(self._job.prompt_id, self._job.client_id, one.node, shown, one.ui))

    def below(self, node: str) -> Inner:
        """What was shown by nodes that ran in this one's place, once it is over."""
        if not self._inner:
            return ()
        inner = tuple(self._inner.pop(node, ()))
        if inner and node in self._made:
            self._remember(node, inner)
        return inner

    def _remember(self, node: str, shown: Shown | Inner) -> None:
        self._inner.setdefault(self._made[node].parent, []).append(shown)
