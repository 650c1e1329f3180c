"""Results of nodes by signature, and how long they are kept."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from limner.engine.sizes import Piece, pieces, ram_of

Owner = tuple[str, str]
"""The node of a prompt, and its kind, that a node belongs to which an expansion made (rule C9)."""


NOTHING: Mapping[str, Any] = MappingProxyType({})


class Shown(NamedTuple):
    """What a node showed that an expansion made: which node, what, and who it is."""

    node: str
    ui: Mapping[str, Any]
    meta: Mapping[str, Any]


Inner = tuple["Shown | Inner", ...]
"""What was shown below a node: by nodes that it returned, and below those. A tree, because loops nest deeply."""


class Entry(NamedTuple):
    """What a node gave: each output slot as a list of values (rule M1), and what it shows, if anything.

    meta: which node made it, as the history says it. blocked: whether a value stops what depends on it. inner: what
    nodes showed that ran in this node's place.
    """

    outputs: tuple[list[Any], ...]
    ui: Mapping[str, Any] | None = None
    meta: Mapping[str, Any] = NOTHING
    blocked: bool = False
    inner: Inner = ()


class Made(NamedTuple):
    """How a result came about, for policies that care.

    owner: of a node that an expansion made. seconds: how long the node took. lasting: whether the signature means the
    same in another process.
    """

    owner: Owner | None = None
    seconds: float = 0.0
    lasting: bool = False


PLAINLY = Made()


def nobody(_: Owner) -> bool:
    """No owner is there."""
    return False


class ResultCache(Protocol):
    """A policy. Called by the thread that runs nodes only.

    steady: whether what is put stays until the next prompt begins; else the run holds results for those who wait.
    """

    steady: bool

    def begin(self, signatures: Collection[bytes], there: Callable[[Owner], bool] = nobody) -> None:
        """A prompt starts with nodes of these signatures. there: whether it has that node, which may expand again."""

    def has(self, signature: bytes) -> bool:
        """Whether `get` should find it."""

    def get(self, signature: bytes) -> Entry | None:
        """The result of that signature, if it is kept."""

    def put(self, signature: bytes, entry: Entry, made: Made = PLAINLY) -> None:
        """Keep a result as long as the policy says."""

    def poll(self, held: Callable[[], Collection[bytes]]) -> None:
        """A node has ended. held: signatures of results that the run holds itself; dropping them frees nothing."""

    def relieve(self, needed: int, held: Mapping[bytes, Entry]) -> int:
        """Drop results until `needed` bytes of RAM are free, the least worth first; how many came free.

        held: results that the running prompt still needs; they stay.
        """

    def entries(self) -> list[Entry]:
        """What is kept in memory. May be called by any thread."""

    def clear(self) -> None:
        """Keep nothing."""


class _Kept:
    """A result, and in which prompt it was last used."""

    __slots__ = ("entry", "used")

    def __init__(self, entry: Entry, used: int) -> None:
        self.entry = entry
        self.used = used


class ClassicCache:
    """Keeps what the current prompt uses: all other results go when it starts (rule C5).

    What expanded nodes gave stays while the node that they belong to does. Once that is expanded anew, what it did not
    use then goes (rule C9).
    """

    steady = True

    def __init__(self) -> None:
        self._entries: dict[bytes, Entry] = {}
        self._owned: dict[bytes, tuple[Owner, int]] = {}  # whose a result is, and when it was last used
        self._expanded: dict[Owner, int] = {}  # when it was last expanded
        self._generation = 0

    def begin(self, signatures: Collection[bytes], there: Callable[[Owner], bool] = nobody) -> None:
        """A prompt starts with nodes of these signatures. there: whether it has that node, which may expand again."""
        used = signatures if isinstance(signatures, (set, frozenset)) else set(signatures)
        self._expanded = {owner: last for owner, last in self._expanded.items() if there(owner)}
        stale = [signature for signature in self._entries if signature not in used and not self._stays(signature)]
        for signature in stale:
            del self._entries[signature]
            self._owned.pop(signature, None)
        self._generation += 1

    def _stays(self, signature: bytes) -> bool:
        """Whether a node that is in no prompt, but below one that is, was used when that was last expanded."""
        owned = self._owned.get(signature)
        return owned is not None and owned[1] >= self._expanded.get(owned[0], sys.maxsize)

    def has(self, signature: bytes) -> bool:
        """Whether it is kept."""
        return signature in self._entries

    def get(self, signature: bytes) -> Entry | None:
        """The result of that signature, if it is kept."""
        if self._owned and signature in self._owned:
            self._use(signature, self._owned[signature][0])
        return self._entries.get(signature)

    def put(self, signature: bytes, entry: Entry, made: Made = PLAINLY) -> None:
        """Keep a result."""
        self._entries[signature] = entry
        if made.owner is not None:
            self._use(signature, made.owner)

    def _use(self, signature: bytes, owner: Owner) -> None:
        self._owned[signature] = owner, self._generation
        self._expanded[owner] = self._generation

    def poll(self, held: Callable[[], Collection[bytes]]) -> None:
        """Nothing is to be done."""

    def relieve(self, needed: int, held: Mapping[bytes, Entry]) -> int:
        """Drop results until `needed` bytes of RAM are free, the least worth first; how many came free."""
        going, freed = to_give_up(self._entries, self._age, needed, held)
        for signature in going:
            del self._entries[signature]
            self._owned.pop(signature, None)
        return freed

    def _age(self, signature: bytes) -> int:
        return self._generation - self._owned[signature][1] if signature in self._owned else 0

    def entries(self) -> list[Entry]:
        """What is kept."""
        return list(self._entries.values())

    def clear(self) -> None:
        """Keep nothing."""
        self._entries.clear()
        self._owned.clear()
        self._expanded.clear()


class LruCache:
    """Keeps up to `limit` results, the least recently used prompt's go first (rule C6).

    Results of the current prompt are never dropped.
    """

    steady = True

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._entries: OrderedDict[bytes, _Kept] = OrderedDict()  # least recently used first
        self._generation = 0

    def begin(self, signatures: Collection[bytes], there: Callable[[Owner], bool] = nobody) -> None:  # noqa: ARG002
        """A prompt starts with nodes of these signatures."""
        self._generation += 1
        for signature in signatures:
            self.get(signature)
        self._shrink()

    def has(self, signature: bytes) -> bool:
        """Whether it is kept."""
        return signature in self._entries

    def get(self, signature: bytes) -> Entry | None:
        """The result of that signature, if it is kept."""
        kept = self._entries.get(signature)
        if kept is None:
            return None
        kept.used = self._generation
        self._entries.move_to_end(signature)
        return kept.entry

    def put(self, signature: bytes, entry: Entry, made: Made = PLAINLY) -> None:  # noqa: ARG002 - age is what counts
        """Keep a result."""
        self._entries[signature] = _Kept(entry, self._generation)
        self._entries.move_to_end(signature)
        self._shrink()

    def poll(self, held: Callable[[], Collection[bytes]]) -> None:
        """Nothing is to be done."""

    def relieve(self, needed: int, held: Mapping[bytes, Entry]) -> int:
        """Drop results until `needed` bytes of RAM are free, the least worth first; how many came free."""
        entries = {one: kept.entry for one, kept in self._entries.items()}
        going, freed = to_give_up(entries, self._age, needed, held)
        for signature in going:
            del self._entries[signature]
        return freed

    def _age(self, signature: bytes) -> int:
        return self._generation - self._entries[signature].used

    def entries(self) -> list[Entry]:
        """What is kept."""
        return [kept.entry for kept in list(self._entries.values())]

    def clear(self) -> None:
        """Keep nothing."""
        self._entries.clear()

    def _shrink(self) -> None:
        if self._limit is None:
            return
        while len(self._entries) > self._limit:
            oldest = next(iter(self._entries))
            if self._entries[oldest].used == self._generation:
                return
            del self._entries[oldest]


class RamCache(LruCache):
    """Keeps results while enough memory is free (rule C8): then the largest and oldest go until there is again.

    headroom: GB that are to stay free. available: how many bytes are. Results of the current prompt may go too; the
    run holds those that nodes still wait for.
    """

    steady = False

    def __init__(self, headroom: float, available: Callable[[], float] | None = None, interval: float = 0.05) -> None:
        super().__init__(None)
        self._headroom = headroom * GB
        self._available = available or free_memory
        self._interval = interval
        self._polled = 0.0
        self._collected = 0.0

    def poll(self, held: Callable[[], Collection[bytes]]) -> None:
        """Make room if there is too little; looks at most every `interval` seconds."""
        now = time.monotonic()
        if now - self._polled < self._interval:
            return
        self._polled = now
        if not self._entries or self._available() >= self._headroom:
            return
        if now - self._collected >= COLLECT_INTERVAL:
            self._collected = now
            gc.collect()
        kept_by_run = held()
        for signature in worst_first({one: kept.entry for one, kept in self._entries.items()}, self._age):
            if self._available() >= self._headroom * ENOUGH:
                return
            if signature not in kept_by_run:
                del self._entries[signature]


GB = 1024**3
AGEING = math.log(1.3)
"""By how much the logarithm of a result's weight grows with each prompt that does not use it."""
COLLECT_INTERVAL = 1.0
"""Seconds between two collections of cyclic garbage while there is too little memory."""
ENOUGH = 1.1
"""Once there is too little memory, room is made for a tenth more than is to stay free."""
LEAST = 1 << 20
"""Bytes of RAM that a result takes at least for its memory to be asked back."""


def free_memory() -> float:
    """Bytes of memory that can be had without swapping."""
    import psutil  # noqa: PLC0415 - only this policy needs it

    return float(psutil.virtual_memory().available)


def worst_first(entries: Mapping[bytes, Entry], age: Callable[[bytes], int]) -> list[bytes]:
    """Signatures of results, that of the one least worth its memory first.

    By size, growing with each prompt that does not use it; of equals, the first comes first. age: how many those are.
    """
    scores = {one: math.log(0.1 + ram_of(entry.outputs)) + AGEING * age(one) for one, entry in entries.items()}
    return sorted(scores, key=scores.__getitem__, reverse=True)


def to_give_up(
    entries: Mapping[bytes, Entry], age: Callable[[bytes], int], needed: int, held: Mapping[bytes, Entry]
) -> tuple[list[bytes], int]:
    """Which results to drop so that `needed` bytes of RAM come free, the least worth first, and how many do.

    None that is held, and none whose tensors in RAM that are not held too are smaller than LEAST: a text's embedding
    costs nothing to keep, and a text encoder to have again. Memory that two results share is free once both are gone.
    """
    kept = {piece for entry in held.values() for piece in pieces(entry.outputs)}
    found: dict[bytes, dict[Piece, int]] = {}
    for signature, entry in entries.items():
        if signature not in held:
            own = {one: size for one, size in pieces(entry.outputs).items() if one.device == "cpu" and one not in kept}
            if sum(own.values()) >= LEAST:
                found[signature] = own
    sharers = Counter(piece for own in found.values() for piece in own)
    going: list[bytes] = []
    freed = 0
    for signature in worst_first({one: entries[one] for one in found}, age):
        if freed >= needed:
            break
        going.append(signature)
        sharers.subtract(found[signature].keys())
        freed += sum(size for piece, size in found[signature].items() if not sharers[piece])
    return going, freed


class NoCache:
    """Keeps nothing: results reach their consumers within a run and are gone after it (rule C7)."""

    steady = False

    def begin(self, signatures: Collection[bytes], there: Callable[[Owner], bool] = nobody) -> None:
        """A prompt starts."""

    def has(self, signature: bytes) -> bool:  # noqa: ARG002 - nothing is ever there
        """False."""
        return False

    def get(self, signature: bytes) -> Entry | None:  # noqa: ARG002 - nothing is ever there
        """None."""
        return None

    def put(self, signature: bytes, entry: Entry, made: Made = PLAINLY) -> None:
        """Let the result go."""

    def poll(self, held: Callable[[], Collection[bytes]]) -> None:
        """Nothing is to be done."""

    def relieve(self, needed: int, held: Mapping[bytes, Entry]) -> int:  # noqa: ARG002 - there is nothing to drop
        """0."""
        return 0

    def entries(self) -> list[Entry]:
        """Nothing."""
        return []

    def clear(self) -> None:
        """There is nothing to drop."""


def make_cache(settings: Any) -> ResultCache:
    """The policy that the settings ask for: `cache_lru`, `cache_ram`, `cache_none`, else classic (rule Z1)."""
    if settings.cache_lru:
        return LruCache(settings.cache_lru)
    if settings.cache_ram:
        return RamCache(settings.cache_ram)
    return NoCache() if settings.cache_none else ClassicCache()
