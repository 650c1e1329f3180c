"""How a run ended."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from limner.engine.events import Event


@dataclass
class Outcome:
    """How a run ended: what goes into the history, and the event that says so.

    explain: why each node ran, `{"nodes": {id: …}}` as `limner.engine.explain` has it.
    """

    status: str
    final: Event
    outputs: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    messages: list[list[Any]] = field(default_factory=list)
    explain: dict[str, Any] | None = None

    def status_json(self) -> dict[str, Any]:
        """The `status` of the history entry."""
        good = self.status == "completed"
        return {"status_str": "success" if good else "error", "completed": good, "messages": self.messages}


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
