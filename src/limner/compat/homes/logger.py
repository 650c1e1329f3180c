"""`app.logger`: the log as packs read it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from limner.compat.host import Host, current

LINES = 300


class _Lines(logging.Handler):
    """The last lines of the log, and who wants to hear them."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[dict[str, str]] = deque(maxlen=LINES)
        self.callbacks: list[Callable[[Sequence[dict[str, str]]], Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        when = datetime.fromtimestamp(record.created).astimezone().isoformat()
        line = {"t": when, "m": record.getMessage() + "\n"}
        self.lines.append(line)
        for callback in self.callbacks:
            callback([line])


def _make(_: Host) -> _Lines:
    lines = _Lines()
    logging.getLogger().addHandler(lines)
    return lines


def get_logs() -> list[dict[str, str]]:
    """The last lines, `{"t": time, "m": text}`, from when it was first asked."""
    lines: _Lines = current().part("log lines", _make)
    return list(lines.lines)


def on_flush(callback: Callable[[Sequence[dict[str, str]]], Any]) -> None:
    """Call this with each new line."""
    lines: _Lines = current().part("log lines", _make)
    lines.callbacks.append(callback)


def setup_logger(log_level: str = "INFO", capacity: int = LINES, use_stdout: bool = False) -> None:
    """The log is set up by Limner; its level is changed."""
    del capacity, use_stdout
    logging.getLogger().setLevel(log_level)


def log_startup_warning(msg: str) -> None:
    """Warn."""
    logging.getLogger("limner.packs").warning(msg)
