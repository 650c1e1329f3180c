"""A real server in a process of its own, for tests that kill it, and for clients that are not ours."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START_SECONDS = 60.0


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`limner serve` below a folder of its own."""

    def __init__(self, base: Path, *flags: str, port: int | None = None) -> None:
        self.base = base
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = base / "server.log"
        command = [
            sys.executable,
            "-m",
            "limner",
            "serve",
            "--port",
            str(self.port),
            "--base-directory",
            str(base),
            *flags,
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=base, env={**os.environ})

    def wait(self) -> Server:
        """Return once it answers; fails with its log when it does not."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                return self
            time.sleep(0.02)
        raise AssertionError(f"the server did not start:\n{self.log.read_text(errors='replace')[-3000:]}")

    def get(self, path: str) -> Any:
        """The JSON of a GET."""
        with urllib.request.urlopen(self.url + path, timeout=30) as reply:
            return json.load(reply)

    def post(self, path: str, body: Any, seconds: float = 30) -> Any:
        """The JSON of a POST, or None for an empty reply. Raises OSError for a status that is no success.

        seconds: that it may take.
        """
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=seconds) as reply:
            text = reply.read()
        return json.loads(text) if text else None

    def until_idle(self, seconds: float = 120.0) -> None:
        """Return once nothing waits or runs."""
        deadline = time.monotonic() + seconds
        while self.get("/prompt")["exec_info"]["queue_remaining"]:
            assert time.monotonic() < deadline, "the queue did not empty"
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL: nothing is tidied up."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and a kill for who does not listen."""
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()


@contextlib.contextmanager
def serving(base: Path, *flags: str) -> Iterator[Server]:
    """A server that answers, stopped at the end."""
    server = Server(base, *flags)
    try:
        yield server.wait()
    finally:
        server.stop()
