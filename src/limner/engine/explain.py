"""Why each node of a prompt ran: what differs from the last time that this node, of this kind, ran."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from limner.graph import Link, NodeCall
from limner.graph.values import shown

LONG = 1000
"""Texts of more characters are remembered by their beginning and a hash."""


class LastTime(NamedTuple):
    """What a node was given when it last ran: inputs, its signature, those wired into it, and its fingerprint."""

    inputs: Mapping[str, Any]
    signature: bytes
    upstream: Mapping[str, bytes]
    fingerprint: Any


class Reasons:
    """What each node last ran with, by node id and kind; the `limit` most recent."""

    def __init__(self, limit: int = 20_000) -> None:
        self._limit = limit
        self._last: OrderedDict[tuple[str, str], LastTime] = OrderedDict()

    def ran(
        self, node: str, call: NodeCall, signatures: Mapping[str, bytes], fingerprint: Any = None
    ) -> dict[str, Any]:
        """Note that a node has run; why, as plain data.

        `{"class_type", "cached": False, "reason"}`, and with what applies: `changed`, the inputs `{"input", "from",
        "to"}`, and `upstream`, the nodes whose results are others. Reasons are "first run", "input changed",
        "is_changed", "upstream changed", "evicted" (the same again, but not kept) and "never equal".
        """
        key = node, call.kind
        inputs, upstream = call.inputs, {}
        for value in inputs.values():
            if type(value) is Link:
                upstream[value.node] = signatures[value.node]
            elif type(value) is str and len(value) > LONG:
                inputs = _short(inputs)
        now = LastTime(inputs, signatures[node], upstream, fingerprint)
        last = self._last.pop(key, None)
        self._last[key] = now
        if len(self._last) > self._limit:
            self._last.popitem(last=False)
        found: dict[str, Any] = {"class_type": call.kind, "cached": False, "reason": "first run"}
        if last is None:
            return found
        if last.signature == now.signature:
            found["reason"] = "evicted"
            return found
        changed = [] if _same(last.inputs, inputs) else _differences(last.inputs, inputs)
        others = [one for one, signature in upstream.items() if last.upstream.get(one, signature) != signature]
        if changed:
            found["reason"], found["changed"] = "input changed", changed
        elif not _same(last.fingerprint, fingerprint):
            found["reason"] = "is_changed"
            found["changed"] = [{"input": "is_changed", "from": _plain(last.fingerprint), "to": _plain(fingerprint)}]
        elif others:
            found["reason"] = "upstream changed"
        else:
            found["reason"] = "never equal"
        if others:
            found["upstream"] = others
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
