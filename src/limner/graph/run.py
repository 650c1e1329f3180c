"""Run: the one door from a node to the engine; files, progress, interruption, and what the prompt carries."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(eq=False)
class Blocker:
    """A value that stops what depends on it. message: told once, by the first node it reaches; None says nothing."""

    message: str | None = None


class ProgressSink(Protocol):
    """Where a node's progress goes."""

    def progress(self, node_id: str, value: float, total: float, preview: Any | None = None) -> None:
        """Report `value` of `total` done; raises Interrupted when the prompt was interrupted meanwhile."""

    def check(self) -> None:
        """Raise Interrupted when the prompt was interrupted."""

    def tell(self, node_id: str, text: str) -> None:
        """Show a text at a node."""


@dataclass(frozen=True)
class Run:
    """What a running node may reach.

    prompt_id, node_id: which call this is. prompt: the whole API prompt as stored; extra_pnginfo: what the client
    sends to be written into files, or None. settings, store, memory: the process's Settings, Store and MemoryManager
    (typed Any here because this package may not import theirs). sink: where progress goes. list_index: which of the
    mapped calls it is, None outside of calls.
    """

    prompt_id: str
    node_id: str
    settings: Any
    store: Any
    memory: Any
    sink: ProgressSink
    prompt: Mapping[str, Any] = field(default_factory=dict)
    extra_pnginfo: Mapping[str, Any] | None = None
    list_index: int | None = None

    def progress(self, value: float, total: float, preview: Any | None = None) -> None:
        """Report `value` of `total` steps done, with a preview picture (PIL image) if there is one.

        Raises Interrupted when the prompt was interrupted meanwhile.
        """
        self.sink.progress(self.node_id, value, total, preview)

    def tell(self, text: str) -> None:
        """Show a text at the node while it is the newest thing known of it."""
        self.sink.tell(self.node_id, text)

    def check(self) -> None:
        """Raise Interrupted when the prompt was interrupted; call it between long steps."""
        self.sink.check()


CURRENT_RUN: ContextVar[Run | None] = ContextVar("limner_current_run", default=None)
"""The run of the node that is called in this thread or task; None outside of nodes. The engine sets it (rule A3)."""
