"""API keys: who may ask, kept as hashes, so that the file lets nobody in."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limner.errors import BadInput, LimnerError, NotFound
from limner.store.atomic import write_atomic
from limner.store.paths import resolve_inside

FILE = "api_keys.json"
PREFIX = "limner_"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
GIVEN = "admin"
"""The name of the key that --api-key gives on the command line."""


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret. digest: hex SHA-256 of the secret, which is long and random. created: ms since 1970.

    admin: sees and may change what belongs to any key, the log, and files outside `keys/`.
    """

    name: str
    digest: str
    admin: bool = False
    created: int = 0

    @property
    def owner(self) -> str | None:
        """Whose jobs and files it reaches: its own, or with None everyone's."""
        return None if self.admin else self.name


class Keys:
    """The keys of a server. The file is read again when it changes, so that keys may be made and removed meanwhile.

    given: one more secret, of an administrator's, which is kept nowhere. required: refuse whoever has no key even
    while there is none.
    """

    def __init__(self, folder: Path, given: str | None = None, *, required: bool = False) -> None:
        self._file = folder / FILE
        self._given = ApiKey(GIVEN, digest(given), admin=True) if given else None
        self._needed = required or bool(given)
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._by_digest: dict[str, ApiKey] = {}

    def required(self) -> bool:
        """Whether requests need a key: they do from when there is one, and then until the server ends."""
        self._needed = self._needed or bool(self._read())
        return self._needed

    def find(self, secret: str) -> ApiKey | None:
        """The key of that secret, or None."""
        sum_ = digest(secret)
        if self._given is not None and secrets.compare_digest(self._given.digest, sum_):
            return self._given
        return self._read().get(sum_)

    def all(self) -> list[ApiKey]:
        """Every key of the file, in the order in which they were made."""
        return list(self._read().values())

    def add(self, name: str, *, admin: bool = False) -> str:
        """Make a key and return its secret, which is told only now. Raises BadInput for a name that cannot be used."""
        if not NAME.fullmatch(name) or (name == GIVEN and self._given is not None):
            raise BadInput(
                f"{name!r:.60} cannot be the name of a key.",
                do="Use 1 to 40 lower-case letters, digits, hyphens and underscores.",
            )
        resolve_inside(self._file.parent, name)  # it names folders too: none that a system reserves
        secret = PREFIX + secrets.token_urlsafe(32)
        with self._lock:
            known = dict(self._load())
            if any(key.name == name for key in known.values()):
                raise BadInput(f"There is a key {name!r}.", do="Remove it first, or choose another name.")
            made = ApiKey(name, digest(secret), admin, time.time_ns() // 1_000_000)
            self._write({**known, made.digest: made})
        return secret

    def remove(self, name: str) -> None:
        """Make a key worthless; what belongs to its name stays. Raises NotFound."""
        with self._lock:
            known = self._load()
            left = {sum_: key for sum_, key in known.items() if key.name != name}
            if len(left) == len(known):
                raise NotFound(f"There is no key {name!r}.", do="`limner keys` lists them.")
            self._write(left)

    def _read(self) -> Mapping[str, ApiKey]:
        try:
            stat = self._file.stat()
        except FileNotFoundError:
            return {}
        seen = (stat.st_mtime_ns, stat.st_ino)
        with self._lock:
            if seen != self._seen:
                self._by_digest = self._load()
                self._seen = seen
            return self._by_digest

    def _load(self) -> dict[str, ApiKey]:
        try:
            found = json.loads(self._file.read_bytes())
            keys = [ApiKey(**one) for one in found["keys"]]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            # Taking it for empty would let everyone in.
            raise LimnerError(
                f"{self._file} cannot be read.", why=f"{error}.", do="Mend it or move it away."
            ) from error
        return {key.digest: key for key in keys}

    def _write(self, keys: Mapping[str, ApiKey]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        listed: dict[str, Any] = {"keys": [asdict(key) for key in keys.values()]}
        write_atomic(self._file, json.dumps(listed, indent=2).encode(), sync=True)
        self._file.chmod(0o600)


def digest(secret: str) -> str:
    """The hash that a secret is recognised by."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
