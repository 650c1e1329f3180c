"""One process at a time owns a job database: two would each run every waiting prompt."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO

from limner.errors import LimnerError

if sys.platform == "win32":
    import msvcrt

    def _take(file: IO[str]) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _take(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class ProcessLock:
    """An advisory lock on `path`, given back by the operating system however the process ends.

    Raises LimnerError with the owner's process number when another process holds it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="ascii")
        try:
            _take(file)
        except OSError as error:
            file.seek(0)
            owner = file.read(32).strip() or "unknown"
            file.close()
            raise LimnerError(
                f"The database {path.with_suffix('')} is in use by another process (number {owner}).",
                why="Two servers on one queue would each run every prompt.",
                do="Stop the other one, or give this one its own --user-directory or --database-url.",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def close(self) -> None:
        """Give the lock back; the file stays, because removing it would race with the next owner."""
        self._file.close()
