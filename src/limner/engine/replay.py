"""What a client that comes late must hear to know where the running prompt is."""

from __future__ import annotations

from limner.engine.events import (
    Event,
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
    Preview,
    Progress,
    ProgressState,
)

ENDS = (ExecutionSuccess, ExecutionError, ExecutionInterrupted)
ORDER = (ExecutionStart, ExecutionCached, ProgressState, Executing, Progress, Preview)
"""The kinds of which the latest is told again, in the order in which a client expects them."""


class Replay:
    """Keeps the latest event of each kind of every prompt that runs. For the event loop only."""

    def __init__(self) -> None:
        self._prompts: dict[str, dict[type[Event], Event]] = {}

    def hear(self, event: Event) -> None:
        """An event was sent."""
        kind = type(event)
        if kind not in ORDER:
            # An error without a time is a blocked branch: the run goes on.
            if kind in ENDS and not (isinstance(event, ExecutionError) and event.timestamp is None):
                self._prompts.pop(event.prompt_id, None)
            return
        if isinstance(event, Executing):
            if event.node is None:
                self._prompts.pop(event.prompt_id, None)
                return
            latest = self._prompts.setdefault(event.prompt_id, {})
            # Steps and pictures of the node before say nothing of this one.
            latest.pop(Progress, None)
            latest.pop(Preview, None)
            latest[kind] = event
            return
        self._prompts.setdefault(event.prompt_id, {})[kind] = event

    def __bool__(self) -> bool:
        return bool(self._prompts)

    def forget(self, prompt_id: str) -> None:
        """The prompt is over, whether or not anyone was told."""
        self._prompts.pop(prompt_id, None)

    def of(self, client_id: str) -> list[Event]:
        """What a client hears again: of its own prompts all, of prompts without a client what everyone hears."""
        found: list[Event] = []
        for latest in self._prompts.values():
            events = [latest[kind] for kind in ORDER if kind in latest]
            found += [event for event in events if event.client_id == client_id or _is_for_all(event)]
        return found

    def executing(self, client_id: str) -> Executing | None:
        """The node of the client's prompt that runs now."""
        for latest in self._prompts.values():
            event = latest.get(Executing)
            if isinstance(event, Executing) and event.client_id == client_id:
                return event
        return None


def _is_for_all(event: Event) -> bool:
    return event.client_id is None and isinstance(event, (ProgressState, Progress))
