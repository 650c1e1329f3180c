"""Which of the formats a piece of JSON is in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limner.errors import BadInput


def is_ui_workflow(data: Any) -> bool:
    """Whether this is a workflow as the front end saves it: a list `nodes` and a number `version`."""
    if not isinstance(data, Mapping) or not isinstance(data.get("nodes"), list):
        return False
    version = data.get("version")
    return isinstance(version, int | float) and not isinstance(version, bool)


def is_api_prompt(data: Any) -> bool:
    """Whether this is a prompt: `{id: {"class_type", "inputs"}}` with at least one node."""
    if not isinstance(data, Mapping) or not data:
        return False
    return all(isinstance(call, Mapping) and "class_type" in call and "inputs" in call for call in data.values())


def unwrap(data: Any) -> dict[str, Any]:
    """The prompt or UI workflow in `data`: itself, or what a POST body or another wrapper holds under its name.

    Raises BadInput when there is none.
    """
    if is_ui_workflow(data) or is_api_prompt(data):
        return dict(data)
    if isinstance(data, Mapping):
        for key in ("prompt", "workflow"):
            if is_ui_workflow(data.get(key)) or is_api_prompt(data.get(key)):
                return dict(data[key])
        extra = data.get("extra_data", data)
        info = extra.get("extra_pnginfo") if isinstance(extra, Mapping) else None
        if isinstance(info, Mapping) and is_ui_workflow(info.get("workflow")):
            return dict(info["workflow"])
    raise BadInput(
        "This is neither a workflow nor a prompt.",
        why="A workflow has a list `nodes` and a number `version`; a prompt maps ids to `class_type` and `inputs`.",
        do="Save the workflow again from the browser, or export it in API format.",
    )
