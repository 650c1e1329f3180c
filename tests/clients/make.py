"""Makers for tests with real clients: a server in a process of its own, and programs that may be missing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import NoReturn

import pytest

SDK = "@saintno/comfyui-sdk@0.3.1"
STARTER = "limner-starter.safetensors"
ASSETS = Path(__file__).parents[2] / "src" / "limner" / "assets"

PICTURE = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 255},
        "_meta": {"title": "Blank"},
    },
    "2": {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "client"},
        "_meta": {"title": "Save Image"},
    },
}


@dataclass
class Live:
    """A server in a process of its own."""

    url: str
    base: Path
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextmanager
def live(base: Path, *flags: str) -> Iterator[Live]:
    """`limner serve` on a free port, or the one that the flags name, until the block ends."""
    command = [sys.executable, "-m", "limner", "serve", "--port", "0", "--base-directory", str(base), *flags]
    log = base / "server.log"
    base.mkdir(parents=True, exist_ok=True)
    with log.open("a") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=base)
    lines: Queue[str] = Queue()
    assert process.stdout is not None
    threading.Thread(target=lambda: [lines.put(line) for line in process.stdout or ()], daemon=True).start()
    try:
        yield Live(_address(lines, log), base, process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _address(lines: Queue[str], log: Path) -> str:
    try:
        while True:
            line = lines.get(timeout=60)
            if "To see the GUI go to: " in line:
                return line.rpartition("go to: ")[2].strip()
    except Empty:
        raise AssertionError(f"The server did not start:\n{log.read_text()}") from None


def missing(what: str, variable: str) -> NoReturn:
    """Skip because a program is missing, or fail where the variable forbids that."""
    if os.environ.get(variable) == "1":
        pytest.fail(f"{what} is missing, and {variable}=1 forbids to go without.")
    pytest.skip(f"{what} is missing.")


def sdk_folder() -> Path:
    """A folder with the SDK in node_modules, installed once and kept."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        missing("npm", "LIMNER_REQUIRE_CLIENTS")
    cache = Path(os.environ.get("LIMNER_TEST_CACHE") or Path.home() / ".cache" / "limner-tests")
    folder = cache / SDK.replace("/", "-").replace("@", "")
    if not (folder / "ready").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"name": "clients", "private": true}')
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", SDK]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            missing(f"{SDK} (npm says: {done.stderr[-300:]})", "LIMNER_REQUIRE_CLIENTS")
        (folder / "ready").touch()
    return folder


def has_starter() -> bool:
    """Whether the starter checkpoint is in the package."""
    return (ASSETS / STARTER).is_file()
