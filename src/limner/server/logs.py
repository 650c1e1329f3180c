"""The log as the front end shows it: the last 300 writes, and whoever wants to hear of new ones."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

CAPACITY = 300
Entry = dict[str, str]
"""`t`: local time, ISO 8601; `m`: what was written, with its line ends."""


class LogRing:
    """The newest writes, oldest first. Any thread may write.

    A write that starts with a carriage return takes the place of an unfinished last one, as on a terminal: so a
    progress bar is one entry.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._entries: deque[Entry] = deque(maxlen=capacity)
        self._listeners: tuple[Callable[[Entry], None], ...] = ()
        self._lock = threading.Lock()

    def write(self, text: str) -> None:
        """Take in a piece of text as it goes to the terminal."""
        if not text:
            return
        entry = {"t": datetime.now().astimezone().replace(tzinfo=None).isoformat(), "m": text}
        with self._lock:
            if text.startswith("\r") and self._entries and not self._entries[-1]["m"].endswith("\n"):
                self._entries.pop()
            self._entries.append(entry)
            listeners = self._listeners
        for listener in listeners:
            listener(entry)

    def entries(self) -> list[Entry]:
        """A copy of what is kept."""
        with self._lock:
            return list(self._entries)

    def text(self) -> str:
        """Everything that is kept, as one string."""
        return "".join(f"{entry['t']} - {entry['m']}" for entry in self.entries())

    def listen(self, listener: Callable[[Entry], None]) -> Callable[[], None]:
        """Call `listener` after each write, on the writing thread; returns what stops that."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def stop() -> None:
            with self._lock:
                self._listeners = tuple(one for one in self._listeners if one is not listener)

        return stop


LOG_FILES = ("limner.log", "limner.previous.log")
"""In the user folder: the log of the server that runs or ran last, and of the one before it."""


class LogFile:
    """Keeps what is logged in a file, so that it can be read when the process is gone. Any thread may write.

    A file from before is kept under another name. At `limit` characters the file starts anew in the same way.
    """

    def __init__(self, folder: Path, limit: int = 2_000_000) -> None:
        self._path, self._older = (folder / name for name in LOG_FILES)
        self._limit = limit
        self._size = 0
        self._lock = threading.Lock()
        self._file: TextIO | None = None

    def write(self, entry: Entry) -> None:
        """Take in an entry of the ring. A disk that takes no more ends the file, never the program."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._file is None or self._size > self._limit:
                self._begin()
            if self._file is not None:
                self._size += self._file.write(f"{entry['t']} {entry['m']}")
                self._file.flush()

    def _begin(self) -> None:
        self.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            self._path.replace(self._older)
        self._file = self._path.open("w", encoding="utf-8", errors="replace")
        self._size = 0

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class RingHandler(logging.Handler):
    """Puts log records into a ring."""

    def __init__(self, ring: LogRing) -> None:
        super().__init__()
        self.ring = ring
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record as one line."""
        try:
            self.ring.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


class Tee:
    """A text stream that writes to another one and to a ring: put in place of `sys.stdout` and `sys.stderr`."""

    def __init__(self, stream: TextIO, ring: LogRing) -> None:
        self._stream = stream
        self._ring = ring

    def write(self, text: str) -> int:
        """Write to both."""
        self._ring.write(text)
        return self._stream.write(text)

    def writelines(self, lines: Sequence[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def terminal_size() -> dict[str, int]:
    """The terminal's size as the front end wants it."""
    size = shutil.get_terminal_size()
    return {"cols": size.columns, "rows": size.lines}
