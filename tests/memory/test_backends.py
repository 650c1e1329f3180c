"""Kinds of devices: the folder is the registry, importing asks nothing, and what every kind must hold."""

from __future__ import annotations

import gc
import inspect
import pkgutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from limner.errors import BadInput, LimnerError
from limner.memory import backends
from limner.memory.backends import cpu
from limner.memory.backends.peak import Sampler
from limner.memory.backends.protocol import Backend

CPU = torch.device("cpu")
MIB = 1024**2
SHARED = {"protocol", "caching", "peak"}


def test_the_folder_is_the_registry() -> None:
    files = {module.name for module in pkgutil.iter_modules(backends.__path__)}
    assert set(backends.kinds()) == files - SHARED
    assert backends.of(torch.device("cuda", 3)) is backends.of_kind("cuda")


def test_a_kind_that_no_file_knows_is_refused() -> None:
    with pytest.raises(BadInput, match=r"`meta`.*cpu, cuda"):
        backends.of(torch.device("meta"))


@pytest.mark.parametrize("kind", sorted(backends.kinds()))
def test_a_kind_is_named_as_torch_names_it_and_says_everything(kind: str) -> None:
    backend = backends.of_kind(kind)
    if kind != "npu":  # which torch knows only once torch_npu has told it
        assert torch.device(kind, 0).type == backend.kind
    for name, wanted in inspect.getmembers(Backend, inspect.isfunction):
        if not name.startswith("_"):
            given = inspect.signature(getattr(type(backend), name)).parameters
            assert list(given) == list(inspect.signature(wanted).parameters), name


@pytest.mark.parametrize("kind", sorted(backends.kinds()))
def test_a_kind_that_is_not_there_counts_none(kind: str) -> None:
    count = backends.of_kind(kind).count()
    assert count == (1 if kind == "cpu" else torch.cuda.device_count() if kind == "cuda" else count)
    assert (backends.of_kind(kind) in backends.accelerators()) == (kind != "cpu" and count > 0)


def test_importing_every_kind_asks_no_hardware() -> None:
    script = """
import torch
def asked(*_, **__): raise AssertionError("the hardware was asked")
for module in (torch.cuda, torch.xpu, torch.backends.mps):
    module.is_available = asked
torch.cuda.device_count = asked
from limner.memory import backends
print(*backends.kinds())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["cpu", "cuda", "mps", "npu", "xpu"], done.stderr


def test_the_cpus_memory_in_use_is_what_is_private_and_its_peak_is_seen() -> None:
    backend = backends.of(CPU)
    gc.collect()
    before = backend.used(CPU)
    backend.start_peak(CPU)
    tensor = torch.ones(64 * MIB // 4)
    during = backend.used(CPU)
    time.sleep(0.03)
    del tensor
    after = backend.used(CPU)
    peak = backend.peak(CPU)
    assert during - before > 60 * MIB
    assert during - after > 60 * MIB
    assert peak >= during - MIB
    assert backend.peak(CPU) == peak, "asked again, the same"


def test_mapped_files_are_not_in_use(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(64 * MIB))
    backend = backends.of(CPU)
    before = backend.used(CPU)
    mapped = torch.from_file(str(file), size=64 * MIB, dtype=torch.uint8)
    assert int(mapped.sum()) == 0
    assert backend.used(CPU) - before < 32 * MIB


def test_what_is_private_is_read_from_the_systems_own_line(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("VmRSS:\t 900 kB\nRssAnon:\t     112 kB\nRssFile:\t 788 kB\n")
    assert cpu.private_bytes(status) == 112 * 1024
    assert cpu.private_bytes(tmp_path / "none") > MIB, "elsewhere psutil tells"


def test_a_cpu_has_one_queue_and_needs_no_pinning() -> None:
    backend = backends.of(CPU)
    assert backend.stream(CPU) is None
    assert backend.pinning() is None
    assert backend.is_unified(CPU)
    with pytest.raises(LimnerError, match="no streams"):
        backend.current(CPU)
    backend.synchronize(CPU)
    backend.cap(CPU, 1)
    assert torch.ones(8).sum() == 8


@pytest.mark.skipif(cpu._c_function("mallinfo2") is None, reason="the C library does not tell")
def test_malloc_gives_back_what_it_holds() -> None:
    backend = backends.of(CPU)
    blocks = [torch.empty(4096) for _ in range(4096)]  # of 16 KiB: below what malloc asks the system for one by one
    for block in blocks:
        block.fill_(1)
    kept = blocks[-1]
    held = backend.held(CPU)
    full = backend.used(CPU)
    del blocks, block
    assert backend.held(CPU) - held > 32 * MIB
    backend.trim(CPU)
    assert backend.held(CPU) < 8 * MIB  # though malloc still counts what it gave back
    assert full - backend.used(CPU) > 32 * MIB
    assert kept.sum() == 4096


def test_a_peak_between_start_and_stop_is_seen_and_the_thread_ends() -> None:
    values = iter([5, 1, 9, 1])
    seen = threading.Event()

    def measure() -> int:
        value = next(values, 1)
        if value == 9:
            seen.set()
        return value

    before = threading.active_count()
    sampler = Sampler(measure, interval=0.001)
    assert seen.wait(5)
    assert sampler.stop() == 9
    assert sampler.stop() == 9
    assert threading.active_count() == before


def test_a_new_measurement_ends_the_one_before() -> None:
    backend = backends.of(CPU)
    before = threading.active_count()
    backend.start_peak(CPU)
    backend.start_peak(CPU)
    assert threading.active_count() == before + 1
    backend.peak(CPU)
    assert threading.active_count() == before
