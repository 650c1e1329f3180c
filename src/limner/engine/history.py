"""What has ended, as the protocol's history shows it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

LARGEST = 10_000
"""Entries of one answer when nobody says how many: as many as ComfyUI keeps."""


class History:
    """Finished prompts: `{"prompt", "outputs", "status", "meta"}` by prompt id, in order of completion."""

    def __init__(self, jobs: Any) -> None:
        self._jobs = jobs

    def list(self, max_items: int | None = None, offset: int = -1, owner: str | None = None) -> dict[str, Any]:
        """Finished prompts, oldest first: the newest `max_items`, or with an offset of 0 or more those after it.

        owner: only that API key's prompts, here and below.
        """
        return dict(self._jobs.history(max_items, offset, owner))

    def list_text(self, max_items: int | None = None, offset: int = -1, owner: str | None = None) -> str:
        """`list` as JSON text, joined from what is stored: nothing is parsed. At most the newest `LARGEST` at once."""
        most = LARGEST if max_items is None else max_items
        text: str = self._jobs.history_text(most, offset, owner)
        return text

    def get_text(self, prompt_id: str, owner: str | None = None) -> str | None:
        """The entry of one finished prompt as JSON text, or None."""
        found: str | None = self._jobs.get_text(prompt_id, owner)
        return found

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
