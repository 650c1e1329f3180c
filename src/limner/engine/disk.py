"""Results kept on disk: they outlive the process, in a folder of a size that does not grow beyond its budget."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from limner import __version__
from limner.engine.cache import GB, PLAINLY, Entry, Made, Owner, ResultCache, nobody
from limner.engine.codec import NotStorable, decode, encode
from limner.engine.registry import NodeRegistry
from limner.store import Store
from limner.store.atomic import write_atomic

log = logging.getLogger(__name__)

WORTH = 0.05
"""Seconds that a node must have taken for its result to be worth a file."""
SPEED = 400e6
"""Bytes a second that a disk gives back; what is computed faster is not read."""
SUFFIX = ".safetensors"
GROUPS = ("precision", "unet", "vae", "text", "attention", "upcast", "memory")
FLAGS = ("cpu_vae", "force_channels_last", "deterministic", "fast", "directml", "supports_fp8_compute")
LONGEST_NAME = 300


class DiskCache:
    """Another policy, and below it files: what a node gave is found again after a restart.

    Only what took its time and comes back exactly is stored: tensors, numbers, texts, lists, dicts and tuples of them.
    Not what shows something, is blocked, or came from a node whose code has no version. A file is named after its
    signature, the environment and a checksum; one that is damaged is dropped.

    inner: the policy for memory. folder, budget: where, and how many bytes at most. environment: what else results
    depend on. versions: by what a kind's code is known, None where nobody can say. stamp: what a file is known by
    that a constant names. worth: see WORTH.
    """

    def __init__(
        self,
        inner: ResultCache,
        folder: Path,
        budget: float,
        environment: bytes = b"",
        versions: Callable[[str], bytes | None] | None = None,
        stamp: Callable[[str], bytes] | None = None,
        worth: float = WORTH,
    ) -> None:
        self.steady = inner.steady
        self.version = versions
        self.stamp = stamp
        self._inner = inner
        self._folder = folder
        self._budget = budget
        self._environment = environment
        self._worth = worth
        self._size = 0
        self._files: OrderedDict[str, tuple[Path, int]] = OrderedDict()  # least recently used first
        self._scanned = False

    def begin(self, signatures: Collection[bytes], there: Callable[[Owner], bool] = nobody) -> None:
        """A prompt starts with nodes of these signatures. there: whether it has that node, which may expand again."""
        if not self._scanned:
            self._scanned = True
            self._scan()
        self._inner.begin(signatures, there)

    def has(self, signature: bytes) -> bool:
        """Whether it is kept, in memory or on disk."""
        return self._inner.has(signature) or self._key(signature) in self._files

    def get(self, signature: bytes) -> Entry | None:
        """The result of that signature, read back if need be."""
        entry = self._inner.get(signature)
        if entry is not None or not self._files:
            return entry
        key = self._key(signature)
        found = self._files.get(key)
        if found is None:
            return None
        entry = self._read(key, found[0])
        if entry is not None:
            self._inner.put(signature, entry)
        return entry

    def put(self, signature: bytes, entry: Entry, made: Made = PLAINLY) -> None:
        """Keep a result in memory, and on disk if it is worth it."""
        self._inner.put(signature, entry, made)
        storable = entry.ui is None and not entry.blocked and not entry.inner
        if made.lasting and storable and made.seconds >= self._worth:
            self._write(self._key(signature), entry, made.seconds)

    def poll(self, held: Callable[[], Collection[bytes]]) -> None:
        """A node has ended."""
        self._inner.poll(held)

    def relieve(self, needed: int, held: Mapping[bytes, Entry]) -> int:
        """Drop results from memory; how many bytes came free."""
        return self._inner.relieve(needed, held)

    def entries(self) -> list[Entry]:
        """What is kept in memory."""
        return self._inner.entries()

    def clear(self) -> None:
        """Keep nothing in memory. Files stay: they cost none, and are what is left when the process ends."""
        self._inner.clear()

    def _key(self, signature: bytes) -> str:
        return hashlib.blake2b(signature + self._environment, digest_size=16).hexdigest()

    def _scan(self) -> None:
        """Look which results there are; the file's time says when it was last used."""
        found: list[tuple[float, Path, int]] = []
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for item in os.scandir(self._folder):
                if item.name.endswith(".tmp"):  # of a process that ended while it wrote
                    Path(item.path).unlink(missing_ok=True)
                elif item.name.endswith(SUFFIX) and item.is_file(follow_symlinks=False):
                    found.append((item.stat().st_mtime, Path(item.path), item.stat().st_size))
        except OSError as error:
            log.warning("Results on disk cannot be used: %s", error)
        for _, path, size in sorted(found):
            self._files[path.stem.partition("-")[0]] = path, size
            self._size += size
        self._shrink()

    def _read(self, key: str, path: Path) -> Entry | None:
        try:
            data = path.read_bytes()
            if f"{zlib.crc32(data):08x}" != path.stem.partition("-")[2]:
                raise ValueError("the checksum is another")
            entry = Entry(decode(data))
            os.utime(path)
        except Exception as error:
            log.warning("The result %s is damaged and dropped: %s", path.name, error)
            self._drop(key)
            return None
        self._files.move_to_end(key)
        return entry

    def _write(self, key: str, entry: Entry, seconds: float) -> None:
        if key in self._files:
            return
        try:
            data = encode(entry.outputs)
        except NotStorable as reason:
            log.debug("A result is not stored: %s", reason)
            return
        if len(data) > self._budget / 2 or len(data) / SPEED > seconds:
            return
        path = self._folder / f"{key}-{zlib.crc32(data):08x}{SUFFIX}"
        try:
            write_atomic(path, data)
        except OSError as error:
            log.warning("A result cannot be written: %s", error)
            return
        self._files[key] = path, len(data)
        self._size += len(data)
        self._shrink()

    def _shrink(self) -> None:
        while self._size > self._budget and self._files:
            self._drop(next(iter(self._files)))

    def _drop(self, key: str) -> None:
        path, size = self._files.pop(key)
        self._size -= size
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s cannot be removed: %s", path.name, error)


def open_disk_cache(inner: ResultCache, settings: Any, store: Store, registry: NodeRegistry) -> ResultCache:
    """`inner` with results on disk below it, if the settings give it room."""
    if not settings.disk_cache:
        return inner
    base = Path.cwd() if settings.base_directory is None else Path(settings.base_directory).expanduser().absolute()
    return DiskCache(
        inner,
        base / "cache" / "results",
        settings.disk_cache * GB,
        environment(settings),
        registry.version,
        FileStamps(store).of,
    )


def environment(settings: Any) -> bytes:
    """What results depend on beside prompt and node: this program, torch, the machine and the flags for precision."""
    chosen = [
        f"{one.name}={getattr(settings, one.name)}"
        for one in fields(settings)
        if one.metadata.get("group") in GROUPS or one.name in FLAGS
    ]
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = ""
    own = sorted(f"{path.name}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in _own_files())
    return "\n".join([__version__, torch, platform.machine(), *chosen, *own]).encode()


def _own_files() -> Iterator[Path]:
    return Path(__file__).parents[1].rglob("*.py")


class FileStamps:
    """What files are known by that constants name: a model replaced under its old name is another model."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of(self, text: str) -> bytes:
        """Size and time of each file that a text may mean: by its path, in the input folder, in a model folder."""
        if len(text) > LONGEST_NAME or "." not in text[-16:] or "\n" in text or "\0" in text:
            return b""
        return b"".join(map(_stamp, self._candidates(text)))

    def _candidates(self, text: str) -> Iterator[Path]:
        """Where a file of that name would be. An absolute path takes the place of whatever it is joined to."""
        yield self._store.files.root("input") / text
        folders = self._store.folders
        if not Path(text).is_absolute():
            yield from (root / text for key in folders.names() for root in folders.roots(key))


def _stamp(path: Path) -> bytes:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return b""
    return b"s%d:%d;" % (found.st_size, found.st_mtime_ns)
