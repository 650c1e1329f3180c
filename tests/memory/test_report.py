"""Rows add up to what the process has, whatever the parts are; what nobody explains is said."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from limner.memory import DefaultSettings, MemoryManager
from limner.memory.holdings import Held, RunMemory
from limner.memory.report import DRIVER, LIBRARIES, MIB, WORKSPACES, describe

GPU = torch.device("cuda", 0)
UNET = Held("UNet", "cuda:0", "float16", 900 * MIB, 300 * MIB, 4, 200 * MIB, in_use=False)
TEXT = Held("text encoder", "cpu", "float32", 50 * MIB, 0, 0, 0, in_use=False)
RUN = RunMemory("UNet", "cuda:0", 70, 60, 1.5)


class FakeBackend:
    """A device with settable numbers, in MB."""

    def __init__(self, used: int, held: int = 0) -> None:
        self._used, self._held = used * MIB, held * MIB

    def name(self, device: torch.device) -> str:
        return f"a {device.type}"

    def is_unified(self, device: torch.device) -> bool:
        return device.type == "cpu"

    def total(self, device: torch.device) -> int:
        return 8000 * MIB

    def free(self, device: torch.device) -> int:
        return 5000 * MIB

    def used(self, device: torch.device) -> int:
        return self._used

    def held(self, device: torch.device) -> int:
        return self._held


class Books:
    """A manager with a baseline of 100 MB and 30 MB of buffers."""

    baseline = 100 * MIB

    def __init__(self, cpu: FakeBackend, gpu: FakeBackend | None = None, *held: Held) -> None:
        self.device = torch.device("cpu") if gpu is None else GPU
        self._backends = {"cpu": cpu, "cuda": gpu}
        self._held = held

    def backend(self, device: torch.device) -> Any:
        return self._backends[device.type]

    def cap(self, device: torch.device) -> int | None:
        return 6000 * MIB if device == GPU else None

    def held(self) -> list[Held]:
        return list(self._held)

    def buffers(self, device: torch.device) -> int:
        return 30 * MIB if device == GPU else 0

    def last_runs(self) -> list[RunMemory]:
        return [RunMemory("older", "cpu", 1, 2, 0.1), RUN]


def rows(device: dict[str, Any]) -> dict[str, float]:
    """MB by kind."""
    found: dict[str, float] = {}
    for row in device["rows"]:
        found[row["kind"]] = found.get(row["kind"], 0) + row["bytes"] / MIB
    assert sum(found.values()) * MIB == device["process"]
    return found


def test_an_accelerators_rows_add_up_to_what_its_allocator_has() -> None:
    books = Books(FakeBackend(400), FakeBackend(used=960, held=40), UNET, TEXT)

    cpu, gpu = describe(books, {"cuda:0": 20 * MIB}, running=False)["devices"]

    assert (gpu["device"], gpu["process"], gpu["cap"], gpu["unified"]) == ("cuda:0", 1000 * MIB, 6000 * MIB, False)
    assert rows(gpu) == {
        "network": 900,
        "buffers": 30,
        "results": 20,
        "allocator": 40,
        "libraries": 10,
        "working": 0,
        "unaccounted": 0,
    }
    # On the CPU: 50 of a network, 100 of the baseline, 200 locked; the rest is less than libraries are granted.
    assert rows(cpu)["pinned"] == 200
    assert (rows(cpu)["libraries"], rows(cpu)["unaccounted"]) == (50, 0)


def test_a_network_is_told_with_what_of_it_is_elsewhere() -> None:
    found = describe(Books(FakeBackend(400), FakeBackend(960), UNET), {}, running=False)

    assert json.loads(json.dumps(found)) == found
    assert found["devices"][1]["rows"][0] == {
        "kind": "network",
        "bytes": 900 * MIB,
        "name": "UNet",
        "dtype": "float16",
        "streamed": 300 * MIB,
        "patched": 4,
        "pinned": 200 * MIB,
        "in_use": False,
    }


@pytest.mark.parametrize(("kinds", "cpu_grant"), [([], LIBRARIES), ([object()], LIBRARIES + DRIVER)])
def test_what_an_idle_process_has_beyond_its_grant_is_nobodys(
    kinds: list[Any], cpu_grant: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limner.memory.backends.accelerators", lambda: kinds)
    books = Books(FakeBackend(100 + cpu_grant // MIB + 500), FakeBackend(930 + 64 + 200), UNET)
    books._held = (Held("UNet", "cuda:0", "float16", 900 * MIB, 0, 0, 0, in_use=False),)

    cpu, gpu = describe(books, {}, running=False)["devices"]

    assert (rows(gpu)["libraries"] * MIB, rows(gpu)["unaccounted"]) == (WORKSPACES, 200)
    assert (rows(cpu)["libraries"] * MIB, rows(cpu)["unaccounted"]) == (cpu_grant, 500)


@pytest.mark.parametrize("in_use", [False, True])
def test_what_a_computation_takes_is_its_own_while_it_runs(in_use: bool) -> None:
    held = Held("UNet", "cuda:0", "float16", 900 * MIB, 0, 0, 0, in_use=in_use)
    books = Books(FakeBackend(100), FakeBackend(930 + 64 + 200), held)

    gpu = describe(books, {}, running=not in_use)["devices"][1]

    assert (rows(gpu)["working"], rows(gpu)["unaccounted"]) == (200, 0)


def test_rows_that_explain_more_than_there_is_make_a_negative_rest() -> None:
    (cpu,) = describe(Books(FakeBackend(90, held=5)), {}, running=True)["devices"]

    assert (rows(cpu)["allocator"], rows(cpu)["libraries"], rows(cpu)["unaccounted"]) == (0, 0, -10)


def test_the_latest_run_comes_first_with_estimate_and_peak() -> None:
    runs = describe(Books(FakeBackend(100)), {}, running=False)["runs"]

    assert runs[0] == {"name": "UNet", "device": "cuda:0", "estimated": 70, "measured": 60, "seconds": 1.5}
    assert runs[1]["name"] == "older"


def test_a_device_where_only_results_are_is_told() -> None:
    books = Books(FakeBackend(100), FakeBackend(20))
    books.device = torch.device("cpu")

    assert [one["device"] for one in describe(books, {"cuda:0": MIB}, running=False)["devices"]] == ["cpu", "cuda:0"]


def test_kept_results_of_a_real_process_are_accounted_for_and_a_leak_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limner.memory.backends.accelerators", list)
    manager = MemoryManager(DefaultSettings(cpu=True))
    kept = torch.ones(150 * MIB)  # 600 MB, far more than is granted to anyone uncounted

    (honest,) = describe(manager, {"cpu": kept.nbytes}, running=False)["devices"]
    (leaking,) = describe(manager, {}, running=False)["devices"]

    assert abs(rows(honest)["unaccounted"]) < 0.05 * honest["process"] / MIB
    assert rows(leaking)["unaccounted"] > 100
