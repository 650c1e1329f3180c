"""Results of nodes by signature, and how long they are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """What a node gave: each output slot as a list of values (rule M1), and what it shows, if anything.

    meta: which node made it, as the history says it. blocked: whether a value stops what depends on it.
    """

    outputs: tuple[list[Any], ...]
    ui: Mapping[str, Any] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    blocked: bool = False


class ResultCache(Protocol):
    """A policy. Called by the thread that runs nodes only."""

    def begin(self, signatures: Collection[bytes]) -> None:
        """A prompt with nodes of these signatures starts."""

    def get(self, signature: bytes) -> Entry | None:
        """The result of that signature, if it is kept."""

    def put(self, signature: bytes, entry: Entry) -> None:
        """Keep a result as long as the policy says."""

    def clear(self) -> None:
        """Keep nothing."""


class ClassicCache:
    """Keeps what the current prompt uses: all other results go when it starts (rule C5)."""

    def __init__(self) -> None:
        self._entries: dict[bytes, Entry] = {}

    def begin(self, signatures: Collection[bytes]) -> None:
        """A prompt with nodes of these signatures starts."""
        used = signatures if isinstance(signatures, (set, frozenset)) else set(signatures)
        stale = [signature for signature in self._entries if signature not in used]
        for signature in stale:
            del self._entries[signature]

    def get(self, signature: bytes) -> Entry | None:
        """The result of that signature, if it is kept."""
        return self._entries.get(signature)

    def put(self, signature: bytes, entry: Entry) -> None:
        """Keep a result."""
        self._entries[signature] = entry

    def clear(self) -> None:
        """Keep nothing."""
        self._entries.clear()


class LruCache:
    """Keeps up to `limit` results, the least recently used prompt's go first (rule C6).

    Results of the current prompt are never dropped.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[bytes, Entry] = {}
        self._used: dict[bytes, int] = {}
        self._generation = 0

    def begin(self, signatures: Collection[bytes]) -> None:
        """A prompt with nodes of these signatures starts."""
        self._generation += 1
        for signature in signatures:
            if signature in self._entries:
                self._used[signature] = self._generation
        self._shrink()

    def get(self, signature: bytes) -> Entry | None:
        """The result of that signature, if it is kept."""
        entry = self._entries.get(signature)
        if entry is not None:
            self._used[signature] = self._generation
        return entry

    def put(self, signature: bytes, entry: Entry) -> None:
        """Keep a result."""
        self._entries[signature] = entry
        self._used[signature] = self._generation
        if len(self._entries) > self._limit:
            self._shrink()

    def clear(self) -> None:
        """Keep nothing."""
        self._entries.clear()
        self._used.clear()

    def _shrink(self) -> None:
        excess = len(self._entries) - self._limit
        if excess <= 0:
            return
        old = sorted((g, s) for s, g in self._used.items() if g < self._generation)
        for _, signature in old[:excess]:
            del self._entries[signature], self._used[signature]


class NoCache:
    """Keeps nothing: results reach their consumers within a run and are gone after it (rule C7)."""

    def begin(self, signatures: Collection[bytes]) -> None:
        """A prompt starts."""

    def get(self, signature: bytes) -> Entry | None:  # noqa: ARG002 - nothing is ever there
        """None."""
        return None

    def put(self, signature: bytes, entry: Entry) -> None:
        """Let the result go."""

    def clear(self) -> None:
        """There is nothing to drop."""


class Scoped:
    """Another cache as one owner has it: what a node gave for one API key is not given to another."""

    def __init__(self, cache: ResultCache, owner: str) -> None:
        self._cache = cache
        self._mark = hashlib.sha256(owner.encode()).digest()

    def begin(self, signatures: Collection[bytes]) -> None:
        """A prompt with nodes of these signatures starts."""
        self._cache.begin({self._mark + signature for signature in signatures})

    def get(self, signature: bytes) -> Entry | None:
        """The result of that signature, if it is kept."""
        return self._cache.get(self._mark + signature)

    def put(self, signature: bytes, entry: Entry) -> None:
        """Keep a result."""
        self._cache.put(self._mark + signature, entry)

    def clear(self) -> None:
        """Keep nothing, of any owner."""
        self._cache.clear()


def make_cache(settings: Any) -> ResultCache:
    """The policy that the settings ask for: `cache_lru`, `cache_none`, else classic."""
    if settings.cache_lru:
        return LruCache(settings.cache_lru)
    return NoCache() if settings.cache_none else ClassicCache()
