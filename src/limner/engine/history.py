"""What has ended, as the protocol's history shows it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class History:
    """Finished prompts: `{"prompt", "outputs", "status", "meta"}` by prompt id, in order of completion."""

    def __init__(self, jobs: Any) -> None:
        self._jobs = jobs

    def list(self, max_items: int | None = None, offset: int = -1, owner: str | None = None) -> dict[str, Any]:
        """Finished prompts, oldest first: the newest `max_items`, or with an offset of 0 or more those after it.

        owner: only that API key's prompts, here and below.
        """
        return dict(self._jobs.history(max_items, offset, owner))

    def get(self, prompt_id: str, owner: str | None = None) -> dict[str, Any] | None:
        """The entry of one finished prompt, or None."""
        found: dict[str, Any] | None = self._jobs.get(prompt_id, owner)
        return found

    def delete(self, prompt_ids: Iterable[str], owner: str | None = None) -> None:
        """Forget these."""
        self._jobs.delete(prompt_ids, owner)

    def clear(self, owner: str | None = None) -> None:
        """Forget all."""
        self._jobs.clear(owner)
