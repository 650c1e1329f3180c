"""Regular expressions that can be interrupted: they run in a helper process. (No nodes here.)"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from limner.errors import LimnerError

LOOK = 0.05
"""Seconds between two looks at whether the prompt was interrupted."""
_FITS = 4096
"""A request of that many bytes never waits for room in the pipe."""
_SCRIPT = Path(__file__).with_name("_pattern_child.py")


class PatternFailed(LimnerError):
    """A pattern that cannot be used as it was; `what` is the reason."""


def ask(check: Callable[[], None], name: str, *arguments: Any) -> Any:
    """The result of a function of `_pattern_child`, worked out in a helper process.

    check: called every `LOOK` seconds; what it raises ends the helper and is passed on.
    Raises PatternFailed when the pattern is none, or a group is missing.
    """
    return _helpers().ask(check, name, arguments)


class HelperEnded(LimnerError):
    """The process ended before it answered."""


class Helper:
    """One process, and the thread that waits for its answers."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own script, by the interpreter that runs us
            [sys.executable, "-I", "-S", "-X", "utf8", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.used = False
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="pattern answers", daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")
        self._process.wait()

    def ask(self, check: Callable[[], None], request: str) -> dict[str, Any]:
        """The answer to a request, both a line of JSON. A helper not waited for to the end is of no more use."""
        if len(request) < _FITS:
            self._tell(request)
        else:
            threading.Thread(target=self._tell, args=(request,), name="pattern request", daemon=True).start()
        while True:
            try:
                line = self._answers.get(timeout=LOOK)
            except queue.Empty:
                check()
                continue
            if not line:
                raise HelperEnded("The process that looks for patterns ended.", do="Run the prompt again.")
            self.used = True
            answer: dict[str, Any] = json.loads(line)
            return answer

    def _tell(self, request: str) -> None:
        stdin = self._process.stdin
        try:
            if stdin is not None:
                stdin.write(request + "\n")
                stdin.flush()
        except (OSError, ValueError):
            self._process.kill()  # whoever waits for an answer hears that none comes

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def end(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()


class Helpers:
    """Helpers that wait for work; one is started when all are busy. They end with this process."""

    def __init__(self) -> None:
        self._idle: queue.SimpleQueue[Helper] = queue.SimpleQueue()

    def ask(self, check: Callable[[], None], name: str, arguments: tuple[Any, ...]) -> Any:
        """What `patterns.ask` says. A helper that ended while it was idle is replaced."""
        request = json.dumps([name, arguments])
        helper = self._take()
        try:
            answer = self._answer(helper, check, request)
        except HelperEnded:
            if not helper.used:
                raise
            helper = Helper()
            answer = self._answer(helper, check, request)
        self._idle.put(helper)
        if "error" in answer:
            raise PatternFailed(answer["error"])
        return answer["value"]

    def _answer(self, helper: Helper, check: Callable[[], None], request: str) -> dict[str, Any]:
        try:
            return helper.ask(check, request)
        except BaseException:
            helper.end()
            raise

    def _take(self) -> Helper:
        while True:
            try:
                helper = self._idle.get_nowait()
            except queue.Empty:
                return Helper()
            if helper.alive():
                return helper


@cache
def _helpers() -> Helpers:
    return Helpers()
