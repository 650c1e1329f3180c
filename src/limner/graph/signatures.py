"""Signatures: a hash of what a node computes, made of its kind, its constants and the signatures wired into it.

Two nodes of equal signature give equal results, wherever they are and whatever their ids (rules C1, C2). What cannot
be compared (NaN, foreign objects) gets a signature that nothing else has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import blake2b
from secrets import token_bytes
from typing import Any, NamedTuple

from limner.graph.prompt import Link, NodeCall, Prompt
from limner.graph.registry import Registry
from limner.graph.schema import Schema

Fingerprint = Callable[[str, NodeCall, Schema], Any]
"""Asks the `changes_when` companion of a node: id, call, schema → a value that is equal while a result holds."""

_SIZE = 16
_SHORT = 32
_DEEPEST = 100
_PLAIN = (str, int, bool, float, bytes)


class _Kind(NamedTuple):
    start: bytes
    schema: Schema | None
    declared: frozenset[str] | None
    by_id: bool
    fleeting: bool


class Signer:
    """Signs the nodes of a prompt, each once; what is wired in first, without recursion.

    The prompt may grow (expansion) between calls of `sign`: `owners` has, for each node that another returned, bytes
    that say which, so that nodes in different places below one expansion keep results of their own (rule C9).
    Without a registry every link counts as declared.

    salt: part of every signature that has no link. version: what the code of a kind is known by, for results that are
    kept longer than the process; None where nobody can say. stamp: what the file is known by that a text may name.
    fleeting: the nodes whose signatures are good for this run only, because something in them is unlike everything.
    """

    def __init__(
        self,
        prompt: Prompt,
        registry: Registry | None = None,
        fingerprint: Fingerprint | None = None,
        salt: bytes = b"",
        version: Callable[[str], bytes | None] | None = None,
        stamp: Callable[[str], bytes] | None = None,
    ) -> None:
        self.signatures: dict[str, bytes] = {}
        self.owners: dict[str, bytes] = {}
        self.fleeting: set[str] = set()
        self._salt = salt
        self._version = version
        self._stamp = stamp
        self._never = 0
        self._prompt = prompt
        self._registry = registry
        self._fingerprint = fingerprint
        self._texts: dict[str, bytes] = {}
        self._kinds: dict[str, _Kind] = {}

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
                self.fleeting.add(node)
                done[node] = self._never_equal()
                continue
            ahead = [value.node for value in call.inputs.values() if type(value) is Link and value.node not in done]
            if not ahead:
                done[node] = self._hash(node, call)
            elif node in entered:  # what it needs was seen to, and still waits: for this very node
                self.fleeting.add(node)
                done[node] = self._never_equal()
            else:
                entered.add(node)
                path.extend(one for one in ahead if one not in entered)
        return done[root]

    def _kind(self, kind: str) -> _Kind:
        """What each signature of a kind begins with, and what of its schema matters, gathered once."""
        found = self._kinds.get(kind)
        if found is None:
            schema = None if self._registry is None else self._registry.get(kind)
            version = b"" if self._version is None else self._version(kind)
            found = self._kinds[kind] = _Kind(
                _text_bytes(kind) + self._salt + (b"v" + version if version else b""),
                schema,
                None if schema is None or schema.more is not None else frozenset(port.name for port in schema.inputs),
                schema is not None and (schema.not_idempotent or "UNIQUE_ID" in schema.hidden.values()),
                version is None,
            )
        return found

    def _hash(self, node: str, call: NodeCall) -> bytes:
        kind = self._kind(call.kind)
        text, schema, declared = self._text, kind.schema, kind.declared
        never = self._never
        parts = [kind.start]
        if kind.by_id:
            parts.append(b"@" + _text_bytes(node))
        if self.owners and node in self.owners:
            parts.append(b"^" + self.owners[node])
        if "is_changed" in call.extra:  # a client may know better than the companion (rule I1)
            parts.append(b"#" + self._constant(call.extra["is_changed"]))
        elif schema is not None and "changes_when" in schema.companions and self._fingerprint is not None:
            parts.append(b"#" + self._constant(self._fingerprint(node, call, schema)))
        inputs = call.inputs
        fleeting = kind.fleeting
        for name in sorted(inputs):
            value = inputs[name]
            parts.append(text(name))
            if type(value) is str:
                parts.append(text(value))
                if self._stamp is not None:
                    parts.append(self._stamp(value))
            elif type(value) is Link:
                if declared is None or name in declared:
                    parts.append(b"L%d:" % value.slot + self.signatures[value.node])
                    fleeting = fleeting or value.node in self.fleeting
                else:
                    parts.append(b"l%d:" % value.slot + _text_bytes(value.node))
            else:
                parts.append(self._constant(value))
        if fleeting or self._never != never:
            self.fleeting.add(node)
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
        self._never += 1
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
