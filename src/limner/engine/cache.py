"""Results of nodes by signature, and how long they are kept."""

from __future__ import annotations

import gc
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

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
        places = {signature: place for place, signature in enumerate(self._entries)}
        order = sorted(places, key=lambda one: (-self._score(self._entries[one]), places[one]))
        for signature in order:
            if self._available() >= self._headroom * ENOUGH:
                return
            if signature not in kept_by_run:
                del self._entries[signature]

    def _score(self, kept: _Kept) -> float:
        """How little a result is worth its memory: by size, growing with each prompt that does not use it."""
        return AGEING ** (self._generation - kept.used) * (0.1 + ram_of(kept.entry.outputs))


GB = 1024**3
AGEING = 1.3
COLLECT_INTERVAL = 1.0
"""Seconds between two collections of cyclic garbage while there is too little memory."""
ENOUGH = 1.1
"""Once there is too little memory, room is made for a tenth more than is to stay free."""
TENSOR_SHARE = 0.5
"""Tensors count half: others may hold them too."""


def free_memory() -> float:
    """Bytes of memory that can be had without swapping."""
    import psutil  # noqa: PLC0415 - only this policy needs it

    return float(psutil.virtual_memory().available)


def ram_of(value: Any, depth: int = 0) -> float:
    """Bytes of main memory that a result keeps: tensors, lists and dicts of them, and objects that say it."""
    if depth > 8 or value is None or isinstance(value, (str, int, float, bool)):
        return 0.0
    if isinstance(value, (list, tuple)):
        return sum(ram_of(one, depth + 1) for one in value)
    if isinstance(value, dict):
        return sum(ram_of(one, depth + 1) for one in value.values())
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return value.numel() * value.element_size() * TENSOR_SHARE if value.device.type == "cpu" else 0.0
    said = getattr(value, "get_ram_usage", None)
    return float(said()) if callable(said) else 0.0


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

    def clear(self) -> None:
        """There is nothing to drop."""


def make_cache(settings: Any) -> ResultCache:
    """The policy that the settings ask for: `cache_lru`, `cache_ram`, `cache_none`, else classic (rule Z1)."""
    if settings.cache_lru:
        return LruCache(settings.cache_lru)
    if settings.cache_ram:
        return RamCache(settings.cache_ram)
    return NoCache() if settings.cache_none else ClassicCache()
