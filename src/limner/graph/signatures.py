"""Signatures: a hash of what a node computes, made of its kind, its constants and the signatures wired into it.

Two nodes of equal signature give equal results, wherever they are and whatever their ids (rules C1, C2). What cannot
be compared (NaN, foreign objects) gets a signature that nothing else has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import blake2b
from secrets import token_bytes
from typing import Any

from limner.graph.prompt import Link, NodeCall, Prompt
from limner.graph.registry import Registry
from limner.graph.schema import Schema

Fingerprint = Callable[[str, NodeCall, Schema], Any]
"""Asks the `changes_when` companion of a node: id, call, schema → a value that is equal while a result holds."""

_SIZE = 16
_SHORT = 32
_DEEPEST = 100
_PLAIN = (str, int, bool, float, bytes)


class Signer:
    """Signs the nodes of a prompt, each once; what is wired in first, without recursion.

    The prompt may grow (expansion) between calls of `sign`. Without a registry every link counts as declared.
    """

    def __init__(
        self, prompt: Prompt, registry: Registry | None = None, fingerprint: Fingerprint | None = None
    ) -> None:
        self.signatures: dict[str, bytes] = {}
        self._prompt = prompt
        self._registry = registry
        self._fingerprint = fingerprint
        self._texts: dict[str, bytes] = {}
        self._kinds: dict[str, tuple[Schema | None, frozenset[str] | None]] = {}

    def sign(self, root: str) -> bytes:
        """The signature of a node. A node that cannot be (missing, or part of a cycle) is unlike every other."""
        done = self.signatures
        path = [root]
        entered: set[str] = set()
        while path:
            node = path[-1]
            if node in done:
                path.pop()
                continue
            call = self._prompt.get(node)
            if call is None:
                done[node] = self._never_equal()
                continue
            ahead = [value.node for value in call.inputs.values() if type(value) is Link and value.node not in done]
            if not ahead:
                done[node] = self._hash(node, call)
            elif node in entered:  # what it needs was seen to, and still waits: for this very node
                done[node] = self._never_equal()
            else:
                entered.add(node)
                path.extend(one for one in ahead if one not in entered)
        return done[root]

    def _kind(self, kind: str) -> tuple[Schema | None, frozenset[str] | None]:
        found = self._kinds.get(kind)
        if found is None:
            schema = None if self._registry is None else self._registry.get(kind)
            found = schema, None if schema is None else frozenset(port.name for port in schema.inputs)
            self._kinds[kind] = found
        return found

    def _hash(self, node: str, call: NodeCall) -> bytes:
        schema, declared = self._kind(call.kind)
        text = self._text
        parts = [text(call.kind)]
        if schema is not None and (schema.not_idempotent or "UNIQUE_ID" in schema.hidden.values()):
            parts.append(b"@" + _text_bytes(node))
        if "is_changed" in call.extra:  # a client may know better than the companion (rule I1)
            parts.append(b"#" + self._constant(call.extra["is_changed"]))
        elif schema is not None and "changes_when" in schema.companions and self._fingerprint is not None:
            parts.append(b"#" + self._constant(self._fingerprint(node, call, schema)))
        inputs = call.inputs
        for name in sorted(inputs):
            value = inputs[name]
            parts.append(text(name))
            if type(value) is str:
                parts.append(text(value))
            elif type(value) is Link:
                if declared is None or name in declared:
                    parts.append(b"L%d:" % value.slot + self.signatures[value.node])
                else:
                    parts.append(b"l%d:" % value.slot + _text_bytes(value.node))
            else:
                parts.append(self._constant(value))
        return blake2b(b"".join(parts), digest_size=_SIZE).digest()

    def _constant(self, value: Any) -> bytes:
        """Bytes that are equal for equal constants only; each has a length or an end, so none runs into the next."""
        kind = type(value)
        if kind is str:
            return _text_bytes(value)
        if kind is int or kind is bool or value is None:
            return b"%b;" % str(value).encode()
        if kind is float:
            return b"f%b;" % repr(value).encode() if value == value else self._never_equal()  # noqa: PLR0124 - NaN
        if kind is bytes:
            return b"b%d:" % len(value) + bytes(value)
        try:
            return b"j" + _text_bytes(json.dumps(value, sort_keys=True, allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            return self._structure(value)

    def _structure(self, value: Any, depth: int = 0) -> bytes:
        """As `_constant`, for lists and dicts of what JSON cannot hold (rule C2). Other objects are never equal."""
        if depth > _DEEPEST:
            return self._never_equal()
        if isinstance(value, (list, tuple)):
            return b"[%b]" % b",".join([self._structure(one, depth + 1) for one in value])
        if isinstance(value, dict) and all(type(key) is str for key in value):
            pairs = [_text_bytes(key) + self._structure(value[key], depth + 1) for key in sorted(value)]
            return b"{%b}" % b",".join(pairs)
        if value is None or type(value) in _PLAIN:
            return self._constant(value)
        return self._never_equal()

    def _text(self, text: str) -> bytes:
        """`_text_bytes`, remembered: kinds, names and short constants come again and again."""
        found = self._texts.get(text)
        if found is None:
            found = _text_bytes(text)
            if len(text) < _SHORT:
                self._texts[text] = found
        return found

    def _never_equal(self) -> bytes:
        return b"!" + token_bytes(_SIZE)


def _text_bytes(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"s%d:" % len(data) + data


def sign(
    prompt: Prompt, registry: Registry | None = None, fingerprint: Fingerprint | None = None
) -> Mapping[str, bytes]:
    """The signatures of all nodes of a prompt."""
    signer = Signer(prompt, registry, fingerprint)
    for node in prompt:
        signer.sign(node)
    return signer.signatures
