"""A request to run a prompt, read and held against the registry: what POST /prompt does before the queue."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from limner.engine.secrets import secret
from limner.errors import LimnerError
from limner.graph import (
    FileLookup,
    MissingNodeTypes,
    Prompt,
    PromptError,
    Registry,
    Snapshot,
    convert_workflow,
    is_ui_workflow,
    normalised,
    parse,
    validate,
)
from limner.graph.validate import Check
from limner.store.records import SECRETS

LARGE = 300
"""Prompts of more nodes than this are checked in a thread, so that the event loop goes on."""
LONGEST_ID = 255


class PromptRejected(LimnerError):
    """A prompt that is not run: `error` and `node_errors` are the body of the 400."""

    def __init__(self, error: dict[str, Any], node_errors: dict[str, Any] | None = None) -> None:
        super().__init__(error["message"], why=error["details"])
        self.error = error
        self.node_errors = node_errors or {}


@dataclass(frozen=True)
class Request:
    """The body of a POST /prompt, read. number: the place in the queue if the client names one."""

    prompt: Any
    prompt_id: str
    number: float | None
    front: bool
    targets: frozenset[str] | None
    extra_data: dict[str, Any]
    sensitive: dict[str, Any]


@dataclass(frozen=True)
class Checked:
    """A prompt that may run: as it is stored, its valid output nodes, and the errors of what is left out.

    parsed: the prompt read, unless values were converted.
    """

    prompt: dict[str, Any]
    parsed: Prompt | None
    outputs: list[str]
    node_errors: dict[str, Any]


def reject(kind: str, message: str, details: str = "") -> PromptRejected:
    """A refusal without node errors."""
    return PromptRejected({"type": kind, "message": message, "details": details, "extra_info": {}})


def read_request(body: Any) -> Request:
    """Read the body. Raises PromptRejected for one that cannot be meant."""
    if not isinstance(body, dict) or "prompt" not in body:
        raise reject("no_prompt", "No prompt provided", "No prompt provided")
    extra = body.get("extra_data")
    if extra is not None and not isinstance(extra, dict):
        raise reject("invalid_prompt", "extra_data must be an object")
    extra = dict(extra or {})
    client = body.get("client_id")
    if client is not None:
        extra["client_id"] = client if isinstance(client, str) else str(client)
    elif "client_id" in extra and not isinstance(extra["client_id"], str):
        extra["client_id"] = str(extra["client_id"])
    targets = body.get("partial_execution_targets")
    if targets is not None and not isinstance(targets, list):
        raise reject("invalid_prompt", "partial_execution_targets must be a list of node ids")
    return Request(
        prompt=body["prompt"],
        prompt_id=_prompt_id(body.get("prompt_id")),
        number=_number(body),
        front=bool(body.get("front")),
        targets=None if targets is None else frozenset(one for one in targets if isinstance(one, str)),
        extra_data=extra,
        sensitive={key: secret(extra.pop(key)) for key in SECRETS if key in extra},
    )


def _prompt_id(given: Any) -> str:
    if given is None:
        return str(uuid4())
    text = given if isinstance(given, str) else json.dumps(given)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = ""
    if not 1 <= len(text) <= LONGEST_ID:
        what = f"It must be 1 to {LONGEST_ID} characters of valid Unicode. Leave it out to have one made."
        raise reject("invalid_prompt", "The prompt_id cannot be used", what)
    return text


def _number(body: Mapping[str, Any]) -> float | None:
    if body.get("number") is None:
        return None
    try:
        number = float(body["number"])
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise reject("invalid_prompt", "number must be a finite number", "It is the prompt's place in the queue.")
    return number


def check_prompt(request: Request, registry: Registry, files: FileLookup, check: Check) -> Checked:
    """Convert a UI workflow, hold the prompt against the registry, and put converted values in place.

    Raises PromptRejected when no output can run.
    """
    raw, registry = request.prompt, Snapshot(registry)
    try:
        if is_ui_workflow(raw):
            raw = convert_workflow(raw, registry)
        prompt = parse(raw, registry)
    except PromptError as error:
        raise PromptRejected(error.to_json()) from error
    except LimnerError as error:
        kind = error.error_type if isinstance(error, MissingNodeTypes) else "invalid_prompt"
        details = " ".join(part for part in (error.why, error.do) if part)
        raise reject(kind, error.what, details) from error
    found = validate(prompt, registry, files, request.targets, check)
    if found.error is not None:
        raise PromptRejected(found.error, found.node_errors)
    stored = normalised(raw, found.changes)
    return Checked(stored, None if found.changes else prompt, found.outputs, found.node_errors)


def is_heavy(request: Request, needs_code: Callable[[str], bool]) -> bool:
    """Whether checking the prompt may take long: many nodes, a UI workflow, or node code to be imported and called."""
    raw = request.prompt
    if not isinstance(raw, dict) or len(raw) > LARGE or "nodes" in raw:
        return isinstance(raw, dict)
    named = (plain.get("class_type") for plain in raw.values() if isinstance(plain, dict))
    return any(needs_code(kind) for kind in {kind for kind in named if isinstance(kind, str)})
