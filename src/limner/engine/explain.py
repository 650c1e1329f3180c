"""Why each node of a prompt ran: what differs from the last time that this node, of this kind, ran."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from itertools import islice
from typing import Any, NamedTuple

from limner.graph import Link, NodeCall
from limner.graph.values import shown

LONG = 1000
"""Texts of more characters are remembered by their beginning and a hash."""


class LastTime(NamedTuple):
    """What a node was given when it last ran: inputs, its fingerprint, and the signatures of all nodes of that run."""

    inputs: Mapping[str, Any]
    fingerprint: Any
    signatures: Mapping[str, bytes]


class Reasons:
    """What each node last ran with, by node id and kind; of the `limit` that came last, and a few more."""

    def __init__(self, limit: int = 20_000) -> None:
        self._limit = limit
        self._last: dict[tuple[str, str], LastTime] = {}

    def trim(self) -> None:
        """Forget the nodes that were noted first, if they are too many: between two runs."""
        for key in list(islice(self._last, max(0, len(self._last) - self._limit))):
            del self._last[key]

    def ran(
        self, node: str, call: NodeCall, signatures: Mapping[str, bytes], fingerprint: Any = None
    ) -> dict[str, Any]:
        """Note that a node has run; why, as plain data.

        `{"class_type", "cached": False, "reason"}`, and with what applies: `changed`, the inputs `{"input", "from",
        "to"}`, and `upstream`, the nodes whose results are others. Reasons are "first run", "input changed",
        "is_changed", "upstream changed", "evicted" (the same again, but not kept) and "never equal".
        """
        key = node, call.kind
        inputs = call.inputs
        for value in inputs.values():
            if type(value) is str and len(value) > LONG:
                inputs = _short(inputs)
                break
        last = self._last.get(key)
        self._last[key] = LastTime(inputs, fingerprint, signatures)
        if last is None:
            return {"class_type": call.kind, "cached": False, "reason": "first run"}
        old = last.signatures
        if old[node] == signatures[node]:
            return {"class_type": call.kind, "cached": False, "reason": "evicted"}
        found: dict[str, Any] = {"class_type": call.kind, "cached": False, "reason": "never equal"}
        links = [value.node for value in inputs.values() if type(value) is Link]
        others = [one for one in links if old.get(one, signatures[one]) != signatures[one]]
        if others:
            found["reason"], found["upstream"] = "upstream changed", list(dict.fromkeys(others))
        if last.fingerprint is not fingerprint and not _same(last.fingerprint, fingerprint):
            found["reason"] = "is_changed"
            found["changed"] = [{"input": "is_changed", "from": _plain(last.fingerprint), "to": _plain(fingerprint)}]
        if not _same(last.inputs, inputs):
            found["reason"], found["changed"] = "input changed", _differences(last.inputs, inputs)
        return found


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The inputs that are others than before."""
    return [
        {"input": name, "from": _plain(old.get(name)), "to": _plain(new.get(name))}
        for name in dict.fromkeys((*old, *new))
        if not _same(old.get(name), new.get(name))
    ]


def _short(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Inputs as they are remembered: long texts do not live on for the sake of an explanation."""
    return {name: _digest(v) if type(v) is str and len(v) > LONG else v for name, v in inputs.items()}


def _digest(text: str) -> str:
    mark = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{text[:200]}… ({len(text)} characters, {mark})"


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except Exception:  # foreign objects compare as they like
        return a is b


def _plain(value: Any) -> Any:
    """A value as JSON has it: links as lists, other objects as text, cut where they are long."""
    if type(value) is Link:
        return list(value)
    if isinstance(value, (list, tuple)) and len(value) == 1:  # a fingerprint is a list of what each call said
        return _plain(value[0])
    if isinstance(value, (str, int, float, bool)) or value is None:
        return shown(value)
    return shown(str(value))
