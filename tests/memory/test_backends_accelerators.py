"""CUDA, ROCm, XPU, NPU and Metal, as torch would show them: a fake module with a known state in its place."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from limner.errors import LimnerError
from limner.memory import backends
from limner.memory.backends import npu

GB = 1024**3


class Queue:
    """A stream as torch has it: what is recorded and waited for is written down."""

    def __init__(self, log: list[Any], name: str) -> None:
        self.log, self.name = log, name

    def record_event(self) -> str:
        self.log.append((self.name, "record"))
        return f"event of {self.name}"

    def wait_event(self, event: str) -> None:
        self.log.append((self.name, "wait", event))


class FakeModule(ModuleType):
    """`torch.cuda` with one driver state for all devices."""

    def __init__(self) -> None:
        super().__init__("fake")
        self.log: list[Any] = []
        self.free, self.all, self.reserved, self.allocated, self.highest = 10 * GB, 24 * GB, 6 * GB, 4 * GB, 5 * GB
        self.properties = SimpleNamespace(is_integrated=0, total_memory=24 * GB, gcnArchName="gfx1100")
        self.capability = (9, 0)
        self.computing = Queue(self.log, "computing")

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 2

    def get_device_name(self, device: torch.device) -> str:
        return f"Fake {device.index}"

    def get_device_properties(self, device: torch.device) -> SimpleNamespace:
        return self.properties

    def get_device_capability(self, device: torch.device) -> tuple[int, int]:
        return self.capability

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        return self.free, self.all

    def memory_reserved(self, device: torch.device) -> int:
        return self.reserved

    def memory_allocated(self, device: torch.device) -> int:
        return self.allocated

    def max_memory_allocated(self, device: torch.device) -> int:
        return self.highest

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.log.append(("reset", device.index))

    def empty_cache(self) -> None:
        self.free += self.reserved - self.allocated
        self.reserved = self.allocated

    def set_per_process_memory_fraction(self, fraction: float, device: torch.device) -> None:
        self.log.append(("cap", fraction, device.index))

    def synchronize(self, device: torch.device | None = None) -> None:
        self.log.append("synchronize")

    def Stream(self, device: torch.device) -> Queue:
        return Queue(self.log, "copying")

    def current_stream(self, device: torch.device) -> Queue:
        return self.computing

    @contextmanager
    def stream(self, stream: Queue) -> Any:
        self.log.append(("enter", stream.name))
        yield
        self.log.append(("leave", stream.name))


@pytest.fixture(params=["cuda", "xpu", "npu"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def fake(kind: str, monkeypatch: pytest.MonkeyPatch) -> FakeModule:
    module = FakeModule()
    monkeypatch.setattr(torch, kind, module, raising=False)
    return module


@pytest.fixture
def device(kind: str) -> Any:
    return SimpleNamespace(type=kind, index=1)  # a torch.device("npu") needs torch_npu


def test_devices_are_counted_and_named(kind: str, fake: FakeModule, device: Any) -> None:
    backend = backends.of(device)
    assert (backend.count(), backend.name(device)) == (2, "Fake 1")
    assert backend in backends.accelerators()
    fake.is_available = lambda: False
    assert backend.count() == 0
    assert backend not in backends.accelerators()


def test_free_is_the_drivers_and_what_the_allocator_holds_unused(fake: FakeModule, device: Any) -> None:
    backend = backends.of(device)
    numbers = (backend.total(device), backend.free(device), backend.used(device), backend.held(device))
    assert numbers == (24 * GB, 12 * GB, 4 * GB, 2 * GB)
    backend.trim(device)
    assert (backend.held(device), backend.free(device)) == (0, 12 * GB)


def test_the_allocator_is_capped_by_a_fraction_of_the_whole(fake: FakeModule, device: Any) -> None:
    backend = backends.of(device)
    backend.cap(device, 6 * GB)
    backend.cap(device, 100 * GB)
    assert fake.log == [("cap", 0.25, 1), ("cap", 1.0, 1)]


def test_the_peak_is_the_allocators(fake: FakeModule, device: Any) -> None:
    backend = backends.of(device)
    backend.start_peak(device)
    assert fake.log == [("reset", 1)]
    assert backend.peak(device) == 5 * GB


def test_a_stream_is_entered_and_waited_for_in_the_order_of_calls(fake: FakeModule, device: Any) -> None:
    backend = backends.of(device)
    copies, compute = backend.stream(device), backend.current(device)
    assert copies is not None
    with copies.entered():
        event = copies.record()
    compute.wait(event)
    backend.synchronize(device)
    assert fake.log == [
        ("enter", "copying"),
        ("copying", "record"),
        ("leave", "copying"),
        ("computing", "wait", "event of copying"),
        "synchronize",
    ]
    assert compute == backend.current(device)
    assert copies != compute


def test_a_part_of_the_processor_is_unified(fake: FakeModule, device: Any) -> None:
    backend = backends.of(device)
    assert not backend.is_unified(device)
    fake.properties.is_integrated = 1
    assert backend.is_unified(device)
    del fake.properties.is_integrated
    assert not backend.is_unified(device), "a driver that does not say"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeModule:
    module = FakeModule()
    monkeypatch.setattr(torch, "cuda", module)
    return module


CUDA = torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("major", "bf16", "fp16"), [(5, False, False), (6, False, True), (7, False, True), (8, True, True), (9, True, True)]
)
def test_what_nvidia_computes_well(cuda: FakeModule, major: int, bf16: bool, fp16: bool) -> None:
    cuda.capability = (major, 0)
    able = backends.of(CUDA).capabilities(CUDA)
    assert (able.kind, able.bf16, able.fp16) == ("cuda", bf16, fp16)


@pytest.mark.parametrize(
    ("architecture", "bf16"),
    [("gfx906:sramecc+:xnack-", False), ("gfx1030", False), ("gfx90a", True), ("gfx1100", True)],
)
def test_what_amd_computes_well(
    cuda: FakeModule, monkeypatch: pytest.MonkeyPatch, architecture: str, bf16: bool
) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    cuda.properties.gcnArchName = architecture
    able = backends.of(CUDA).capabilities(CUDA)
    assert (able.bf16, able.fp16) == (bf16, True)


def test_an_integrated_nvidia_gpu_has_free_what_the_computer_has(
    cuda: FakeModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends.of_kind("cpu"), "free", lambda device: 20 * GB)
    backend = backends.of(CUDA)
    assert backend.free(CUDA) == 12 * GB
    cuda.properties.is_integrated = 1
    assert backend.free(CUDA) == 22 * GB, "the system's, and what the allocator holds"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert backend.free(CUDA) == 12 * GB, "AMD's have a part of their own"


class Result:
    """A member of the runtime's enumeration."""

    def __init__(self, value: int) -> None:
        self.value = value


def test_pinning_goes_to_the_cuda_runtime(cuda: FakeModule) -> None:
    calls: list[Any] = []
    runtime = SimpleNamespace(
        cudaHostRegister=lambda *given: calls.append(("register", *given)) or Result(0),
        cudaHostUnregister=lambda *given: calls.append(("unregister", *given)) or Result(713),
    )
    cuda.cudart = lambda: runtime
    pinning = backends.of(CUDA).pinning()
    assert pinning is not None
    assert pinning.register(4096, 8) == 0
    assert pinning.unregister(4096) == 713
    assert calls == [("register", 4096, 8, 1), ("unregister", 4096)]


def test_a_stale_error_is_taken_out_by_work_that_is_of_no_use(
    cuda: FakeModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending: list[str] = ["invalid argument"]
    real = torch.zeros

    def zeros(*size: int, device: Any = None) -> torch.Tensor:
        if device == "cuda" and pending:
            raise RuntimeError(pending.pop())
        return real(*size)

    monkeypatch.setattr(torch, "zeros", zeros)
    pinning = backends.of(CUDA).pinning()
    assert pinning is not None
    pinning.clear_error()
    assert pending == []
    pinning.clear_error()
    assert cuda.log == ["synchronize"], "without an error the work is waited for"


def test_without_a_gpu_nothing_is_pinned(cuda: FakeModule) -> None:
    cuda.is_available = lambda: False
    assert backends.of(CUDA).pinning() is None


def _unknown(*_: Any) -> Any:
    raise RuntimeError("The device doesn't support querying the available free memory.")


@pytest.mark.parametrize("missing", [_unknown, None], ids=["the driver", "torch"])
def test_an_intel_gpu_whose_free_memory_nobody_tells(
    monkeypatch: pytest.MonkeyPatch, missing: Callable[..., Any] | None
) -> None:
    module = FakeModule()
    monkeypatch.setattr(torch, "xpu", module)
    if missing is None:
        monkeypatch.delattr(FakeModule, "mem_get_info")
    else:
        monkeypatch.setattr(FakeModule, "mem_get_info", missing)
    device = torch.device("xpu", 0)
    backend = backends.of(device)
    assert (backend.total(device), backend.free(device)) == (24 * GB, 20 * GB)
    assert backend.capabilities(device).bf16


@pytest.fixture
def fresh_npu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delattr(torch, "npu", raising=False)
    npu._imported.cache_clear()
    yield
    npu._imported.cache_clear()


def test_without_its_package_there_is_no_npu(fresh_npu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu, "find_spec", lambda name: None)
    assert backends.of_kind("npu").count() == 0


def test_a_package_that_does_not_start_is_said_once_and_counts_none(
    fresh_npu: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(npu, "find_spec", lambda name: object())
    monkeypatch.setattr(npu, "import_module", lambda name: (_ for _ in ()).throw(OSError("libascendcl.so: not found")))
    assert [backends.of_kind("npu").count() for _ in range(2)] == [0, 0]
    assert [record.message for record in caplog.records] == [
        "torch_npu is installed but does not start, so NPUs are not used: libascendcl.so: not found"
    ]


def test_the_package_makes_npus_known(fresh_npu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        monkeypatch.setattr(torch, "npu", FakeModule(), raising=False)

    monkeypatch.setattr(npu, "find_spec", lambda name: object())
    monkeypatch.setattr(npu, "import_module", load)
    assert backends.of_kind("npu").count() == 2
    assert "torch_npu" not in sys.modules


METAL = torch.device("mps", 0)


@pytest.fixture
def metal(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    state = SimpleNamespace(allocated=3 * GB, driver=4 * GB, most=16 * GB, fraction=None, emptied=0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: state.allocated)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: state.driver)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: state.most)
    monkeypatch.setattr(torch.mps, "set_per_process_memory_fraction", lambda part: setattr(state, "fraction", part))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: setattr(state, "driver", state.allocated))
    return state


def test_metal_works_in_the_computers_memory_within_a_bound(
    metal: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backends.of(METAL)
    assert backend in backends.accelerators()
    assert backend.is_unified(METAL)
    monkeypatch.setattr(backends.of_kind("cpu"), "free", lambda device: 20 * GB)
    assert (backend.total(METAL), backend.free(METAL)) == (16 * GB, 13 * GB)
    monkeypatch.setattr(backends.of_kind("cpu"), "free", lambda device: 2 * GB)
    assert backend.free(METAL) == 3 * GB, "what the computer has, and what the allocator holds"
    assert (backend.used(METAL), backend.held(METAL)) == (3 * GB, 1 * GB)
    backend.trim(METAL)
    assert backend.held(METAL) == 0
    backend.cap(METAL, 4 * GB)
    assert metal.fraction == 0.25
    assert backend.capabilities(METAL).fp16


def test_metal_has_one_queue_and_a_peak_by_looking(metal: SimpleNamespace) -> None:
    backend = backends.of(METAL)
    assert backend.stream(METAL) is None
    assert backend.pinning() is None
    with pytest.raises(LimnerError, match="one queue"):
        backend.current(METAL)
    backend.start_peak(METAL)
    metal.allocated = 7 * GB
    assert backend.peak(METAL) == 7 * GB
