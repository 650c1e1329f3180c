"""limner doctor: what it says of memory, for devices that this computer may not have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from limner.cli.doctor import memory_lines
from limner.settings import Settings, Size

torch = pytest.importorskip("torch")

GIB = 1024**3


@dataclass
class Backend:
    """A device with so many GB free."""

    gib: float
    unified: bool = False
    streams: bool = True
    pins: bool = True

    def free(self, device: Any) -> int:
        return int(self.gib * GIB)

    def is_unified(self, device: Any) -> bool:
        return self.unified

    def stream(self, device: Any) -> object | None:
        return object() if self.streams else None

    def pinning(self) -> Any:
        return object() if self.pins else None


class Manager:
    """A manager of a GPU, or of the CPU alone."""

    def __init__(self, settings: Settings, gpu: Backend | None, ram: float = 20) -> None:
        self.settings = settings
        self.device = torch.device("cpu" if gpu is None else "cuda:0")
        self._gpu, self._cpu = gpu, Backend(ram)

    def backend(self, device: Any) -> Any:
        return self._cpu if device.type == "cpu" else self._gpu

    def cap(self, device: Any) -> int | None:
        size = self.settings.max_ram if device.type == "cpu" else self.settings.max_vram
        return None if size is None else size.of(24 * GIB)


def said(settings: Settings, gpu: Backend | None = None, ram: float = 20) -> list[str]:
    manager: Any = Manager(settings, gpu, ram)
    return list(memory_lines(manager))


def test_limits_are_told_where_they_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limner.memory.cgroups.limit", lambda: 16 * GIB)

    lines = said(Settings(max_vram=Size.parse("6G"), max_ram=Size.parse("50%")), Backend(10))

    assert lines[0] == (
        "  ok    RAM: 20.0 GB free; its control group may have 16.0 GB; at most 12.0 GB are used (--max-ram)"
    )
    assert lines[1] == "  ok    memory of cuda:0: at most 6.0 GB are used (--max-vram)"


def test_without_limits_and_accelerators_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limner.memory.cgroups.limit", lambda: None)

    assert said(Settings()) == ["  ok    RAM: 20.0 GB free; no limit of its own (--max-ram)"]


def test_too_little_ram_is_wrong() -> None:
    assert said(Settings(), ram=0.5)[0].startswith("  WRONG RAM: 0.5 GB are free")


@pytest.mark.parametrize(
    ("flags", "gpu", "way", "locked"),
    [
        ({}, Backend(10), "ahead (streams: 2);", True),
        ({"async_offload": 4}, Backend(10), "ahead (streams: 4);", True),
        ({"disable_async_offload": True}, Backend(10), "in order with the computation;", True),
        ({}, Backend(10, streams=False), "in order with the computation;", True),
        ({"disable_pinned_memory": True}, Backend(10), "ahead (streams: 2);", False),
        ({}, Backend(10, unified=True), "ahead (streams: 2);", False),
        ({}, Backend(10, pins=False), "ahead (streams: 2);", False),
    ],
)
def test_how_weights_come_that_do_not_fit(flags: dict[str, Any], gpu: Backend, way: str, locked: bool) -> None:
    line = said(Settings(**flags), gpu)[-1]

    assert f"are copied {way}" in line
    assert ("up to " in line) is locked
    assert ("no RAM is page-locked" in line) is not locked


def test_a_chosen_amount_of_locked_memory_is_told() -> None:
    assert "up to 3.0 GB of RAM" in said(Settings(pinned_memory_limit=Size.parse("3G")), Backend(10))[-1]


def test_the_command_says_what_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from limner.cli import main

    assert main(["doctor", "--base-directory", str(tmp_path), "--max-ram", "1G", "--cpu"]) == 0

    assert "at most 1.0 GB are used (--max-ram)" in capsys.readouterr().out
