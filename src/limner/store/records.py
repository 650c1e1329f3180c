"""A job as the store keeps it, and as text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["pending", "running", "completed", "failed", "cancelled"]
Number = int | float

FINAL: tuple[Status, ...] = ("completed", "failed", "cancelled")
"""The ways in which a job ends."""

SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")
"""Keys of extra_data that are never written to disk."""

_END_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


@dataclass(frozen=True)
class JobRecord:
    """One accepted prompt.

    number: place in the queue, lower first; int and float stay apart because clients see it echoed.
    extra_data: as the client sent it, without secrets. outputs_to_execute: ids of the nodes asked for.
    create_time: milliseconds since 1970. outputs, meta, status_json: those of the history entry, once finished.
    sensitive: credentials for hosted models; never written, so empty after a restart.
    attempts: how often it was started without an orderly end; above 1 the process died while it ran.
    owner: the name of the API key that brought it, None where there are no keys.
    rank: order among equal numbers; None until it is stored, then its place of arrival unless it was moved.
    """

    prompt_id: str
    number: Number
    prompt: dict[str, Any]
    extra_data: dict[str, Any] = field(default_factory=dict)
    outputs_to_execute: list[str] = field(default_factory=list)
    create_time: int = 0
    status: Status = "pending"
    outputs: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    status_json: dict[str, Any] | None = None
    sensitive: dict[str, Any] = field(default_factory=dict, repr=False)
    attempts: int = 0
    owner: str | None = None
    rank: float | None = field(default=None, compare=False)

    def item(self) -> list[Any]:
        """The queue item of the protocol: `[number, prompt_id, prompt, extra_data, outputs]`, without secrets."""
        extra = self.extra_data
        if any(key in extra for key in SECRETS):
            extra = {key: value for key, value in extra.items() if key not in SECRETS}
        return [self.number, self.prompt_id, self.prompt, extra, self.outputs_to_execute]

    def workflow_id(self) -> str | None:
        """The id of the UI workflow that the client sent along, or None."""
        found: Any = self.extra_data
        for key in ("extra_pnginfo", "workflow", "id"):
            found = found.get(key) if isinstance(found, Mapping) else None
        return found if isinstance(found, str) and found else None


@dataclass(frozen=True)
class JobSummary:
    """A finished job without its prompt: what a list of jobs shows. Times are milliseconds since 1970 or None."""

    prompt_id: str
    number: Number
    status: Status
    workflow_id: str | None
    create_time: int
    start_time: int | None
    end_time: int | None
    outputs: dict[str, Any]
    status_json: dict[str, Any] | None


def event_time(status_json: Mapping[str, Any] | None, *, start: bool) -> int | None:
    """The timestamp of the first (`start`) or last event of a history status, or None when it has none."""
    wanted = ("execution_start",) if start else _END_EVENTS
    for event, data in (status_json or {}).get("messages") or ():
        if event in wanted and isinstance(data, Mapping) and isinstance(data.get("timestamp"), int):
            return int(data["timestamp"])
    return None


def encode(value: Any) -> str:
    """JSON text of what a node returned: not-a-number becomes null, and foreign objects become plain or text.

    Browsers refuse a whole reply for one NaN, and one odd value must not lose a history entry.
    """
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return json.dumps(_plain(value, 0), separators=(",", ":"))


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if depth > 100:
        return "…"
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, depth + 1) for item in value]
    if hasattr(value, "tolist"):  # arrays and tensors
        return _plain(value.tolist(), depth + 1)
    return str(value)
