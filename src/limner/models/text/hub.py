"""Fetching single small files from a model hub: pinned by revision and hash, once, into a folder of the models."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from limner.errors import LimnerError

log = logging.getLogger(__name__)

LARGEST = 64 * 1024**2
"""Bytes; a vocabulary is far smaller."""
SECONDS = 30.0
LOCAL = (("http", "127.0.0.1"), ("http", "localhost"))
"""A hub on this machine needs no encryption."""


@dataclass(frozen=True)
class Pin:
    """A file of a repository at one revision. sha256: of its bytes; what differs is never used."""

    repository: str
    revision: str
    file: str
    sha256: str


def fetch(pin: Pin, hub: str, folder: Path) -> Path:
    """The pinned file in `folder`, under its own name, fetched where it is not there yet.

    hub: the hub's address; a file is at HUB/REPOSITORY/resolve/REVISION/FILE. Raises LimnerError when it cannot be
    fetched or is not the pinned one; nothing is left in the folder then.
    """
    target = folder / Path(pin.file).name
    if target.is_file() and _digest(target.read_bytes()) == pin.sha256:
        return target
    address = f"{hub.rstrip('/')}/{pin.repository}/resolve/{pin.revision}/{pin.file}"
    log.info("Fetching %s into %s.", address, folder)
    data = _download(address)
    if _digest(data) != pin.sha256:
        raise LimnerError(
            f"{address} is not the file that was expected.",
            why=f"Its SHA-256 is {_digest(data)}, not {pin.sha256}.",
            do=f"Put the right {target.name} into {folder} by hand.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(data)
    Path(file.name).chmod(0o644)  # temporary files are for their owner alone
    Path(file.name).replace(target)
    return target


def _download(address: str) -> bytes:
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "https" and (parts.scheme, parts.hostname) not in LOCAL:
        raise LimnerError(f"{address} cannot be fetched.", why="A hub's address begins with https://.")
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:  # noqa: S310 - checked above
            data: bytes = answer.read(LARGEST + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise LimnerError(
            f"{address} cannot be fetched.",
            why=str(error),
            do="Check the connection, or put the file into the folder by hand.",
        ) from error
    if len(data) > LARGEST:
        raise LimnerError(f"{address} is larger than {LARGEST} bytes.", why="No vocabulary is that large.")
    return data


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
