"""The API prompt as values: `{id: {"class_type", "inputs"}}` read into calls and links."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NamedTuple

from limner.errors import BadInput
from limner.graph.registry import Registry


class Listed(tuple[Any, ...]):
    """A list that is meant as a value, where a plain list would be a link."""

    __slots__ = ()


class Link(NamedTuple):
    """An input that is another node's output: that node's id and the output's place."""

    node: str
    slot: int


@dataclass(frozen=True, slots=True)
class NodeCall:
    """One node of a prompt.

    inputs: values and `Link`s by name. In a prompt that was sent, a list is a link that is malformed, and one meant as
    a value is `Listed`.
    extra: whatever else the client wrote beside class_type and inputs (`_meta`, `is_changed`).
    """

    kind: str
    inputs: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name a person gave it, or ""."""
        meta = self.extra.get("_meta")
        title = meta.get("title") if isinstance(meta, Mapping) else None
        return title if isinstance(title, str) else ""


Prompt = Mapping[str, NodeCall]
"""Calls by node id, in the order of the client's JSON."""


class PromptError(BadInput):
    """A prompt that cannot be read: the `error` object of the protocol, in parts."""

    def __init__(self, kind: str, message: str, details: str = "", extra_info: Mapping[str, Any] | None = None):
        super().__init__(message, why=details)
        self.kind = kind
        self.details = details
        self.extra_info = dict(extra_info or {})

    def to_json(self) -> dict[str, Any]:
        """`{"type", "message", "details", "extra_info"}`."""
        return {"type": self.kind, "message": self.what, "details": self.details, "extra_info": self.extra_info}


def parse(raw: Any, registry: Registry | None = None) -> dict[str, NodeCall]:
    """Read the JSON of an API prompt.

    With a registry, kinds it does not have are refused too (rule V1: the first such node in the order of the JSON).
    Raises PromptError.
    """
    if not isinstance(raw, dict):
        what = "" if raw == [] else f"The prompt must be an object of nodes, not {_type_name(raw)}."
        raise PromptError("prompt_no_outputs", "Prompt has no outputs", what)
    known: set[str] = set()
    return {node: _parse_call(node, plain, registry, known) for node, plain in raw.items()}


def _parse_call(node: str, plain: Any, registry: Registry | None, known: set[str]) -> NodeCall:
    kind = plain.get("class_type") if isinstance(plain, dict) else None
    if kind is None:
        what = "Cannot execute because a node is missing the class_type property."
        raise PromptError("invalid_prompt", what, f"Node ID '#{clip(node)}'")
    if not isinstance(kind, str) or (registry is not None and kind not in known and kind not in registry):
        raise unknown_kind(node, kind, registry)
    known.add(kind)
    inputs = plain.get("inputs")
    if inputs is None:
        inputs = {}
    elif not isinstance(inputs, dict):
        what = f"Cannot execute because the inputs of a node are {_type_name(inputs)}, not an object."
        raise PromptError("invalid_prompt", what, f"Node ID '#{clip(node)}'")
    values = {name: value if type(value) is str else parse_value(value) for name, value in inputs.items()}
    if len(plain) == 2 and "inputs" in plain:
        return NodeCall(kind, values)
    return NodeCall(kind, values, {key: v for key, v in plain.items() if key not in ("class_type", "inputs")})


def parse_value(value: Any) -> Any:
    """One input: `[id, place]` becomes a Link, a list wrapped as `{"__value__": [...]}` is Listed (rule V8)."""
    if type(value) is list:
        if len(value) == 2 and type(value[0]) is str and type(value[1]) is int:
            return Link(value[0], value[1])
        return value
    if type(value) is dict and "__value__" in value and isinstance(value["__value__"], list):
        return Listed(value["__value__"])
    return value


def unknown_kind(node: str, kind: Any, registry: Registry | None) -> PromptError:
    """The error for a node of a kind that nobody has."""
    near = [] if registry is None or not isinstance(kind, str) else nearest(kind, registry.kinds())
    return PromptError(
        "invalid_prompt",
        f"Cannot execute because node {clip(kind)} does not exist.",
        f"Node ID '#{clip(node)}'",
        {"node_id": clip(node), "class_type": clip(kind), "nearest": near},
    )


def normalised(raw: dict[str, Any], changes: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    """The prompt as it is stored: `raw` with converted values in place (rule V8). Unchanged nodes are shared."""
    if not changes:
        return raw
    out = dict(raw)
    for (node, name), value in changes.items():
        if out[node] is raw[node]:
            out[node] = {**raw[node], "inputs": dict(raw[node]["inputs"])}
        # A list would be read as a link, so one that is a value keeps its wrapping.
        out[node]["inputs"][name] = {"__value__": list(value)} if isinstance(value, tuple) else value
    return out


def nearest(name: str, known: Any, count: int = 3) -> list[str]:
    """The names most like `name`: equal but for case or folder first, then by spelling."""
    names = list(known)[:5000]
    low = name[:200].lower()
    tail = low.replace("\\", "/").rsplit("/", 1)[-1]
    fold: Callable[[str], str] = lambda text: text.lower().replace("\\", "/")  # noqa: E731
    same = [one for one in names if fold(one) == low or fold(one).rsplit("/", 1)[-1] == tail]
    by_low = {fold(one): one for one in reversed(names)}
    like = [by_low[match] for match in get_close_matches(low, by_low, count, 0.5)]
    return list(dict.fromkeys((*same, *like)))[:count]


def clip(value: Any, limit: int = 300) -> str:
    """A value as text for a message, cut where it is long."""
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def text_of(value: object) -> str:
    """A foreign object as text; one that fails at that must not hide what is told of it."""
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__}: {type(error).__name__} while shown>"


def _type_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)
