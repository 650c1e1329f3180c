"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_atomic(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Put `data` at `path` at once, over whatever is there. sync: survive power loss as well."""
    spare = _spare(path, data, sync=sync)
    try:
        spare.replace(path)
    except BaseException:
        spare.unlink(missing_ok=True)
        raise


def write_new(path: Path, data: bytes) -> None:
    """Put `data` at `path` at once. Raises FileExistsError when something is there, also if it came a moment ago."""
    spare = _spare(path, data)
    try:
        try:
            os.link(spare, path)  # unlike a rename, it fails when the name is taken
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            spare.replace(path)
    finally:
        spare.unlink(missing_ok=True)


def _spare(path: Path, data: bytes, *, sync: bool = False) -> Path:
    """A file beside `path` with the data, named so that folder listings pass it over."""
    spare = path.with_name(f".{uuid.uuid4().hex}.tmp")
    number = os.open(spare, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        spare.unlink(missing_ok=True)
        raise
    return spare
