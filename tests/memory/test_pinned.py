"""Page-locked memory: what is locked, what is refused, and that a driver's error is never left behind."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from limner.memory import backends
from limner.memory.backends.protocol import Pinning
from limner.memory.pinned import OFF, TRIES, PinnedMemory, budget, on_windows
from limner.memory.settings import DefaultSettings
from limner.settings import Size

GB = 1024**3
KIB = 1024


class Runtime:
    """A driver that counts what it is asked, and leaves an error behind as a real one does."""

    def __init__(self, fails: Sequence[int] = ()) -> None:
        self.fails = list(fails)
        self.locked: dict[int, int] = {}
        self.foreign: set[int] = set()
        self.registered = self.unregistered = 0
        self.stale = False

    def register(self, pointer: int, nbytes: int) -> int:
        self.registered += 1
        result = self.fails.pop(0) if self.fails else 712 if pointer in self.locked else 0
        if result:
            self.stale = True
        else:
            self.locked[pointer] = nbytes
        return result

    def unregister(self, pointer: int) -> int:
        self.unregistered += 1
        if self.fails or pointer not in self.locked:
            self.stale = True
            return self.fails.pop(0) if self.fails else 713
        del self.locked[pointer]
        return 0

    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.data_ptr() in self.locked or tensor.data_ptr() in self.foreign

    def clear_error(self) -> None:
        self.stale = False


def weight(nbytes: int = KIB) -> nn.Parameter:
    return nn.Parameter(torch.zeros(nbytes, dtype=torch.uint8), requires_grad=False)


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
def memory(runtime: Runtime) -> PinnedMemory:
    return PinnedMemory(runtime, 4 * KIB)


def allowed(total: int = 100 * GB, *, unified: bool = False, windows: bool = False, **settings: object) -> int:
    return budget(DefaultSettings(**settings), total, unified=unified, windows=windows)


def test_the_fake_is_a_runtime(runtime: Runtime) -> None:
    taken: Pinning = runtime
    assert taken.register(8, 8) == 0


def test_s07_pinning_is_on_within_a_share_of_the_ram() -> None:
    assert allowed() == 95 * GB
    assert allowed(windows=True) == 45 * GB
    assert allowed(disable_pinned_memory=True) == OFF


@pytest.mark.parametrize(
    ("system", "release", "windows"),
    [
        ("linux", "6.8.0-generic", False),
        ("win32", "10", True),
        ("linux", "5.15.153.1-microsoft-standard-WSL2", True),
        ("darwin", "24.1.0", False),
    ],
)
def test_s07_windows_driver_is_windows_in_wsl_too(system: str, release: str, windows: bool) -> None:
    assert on_windows(system, release) is windows


def test_s07_switched_off_nothing_is_tried(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    memory = PinnedMemory.of(runtime, DefaultSettings(disable_pinned_memory=True), unified=False)
    assert (memory.budget, memory.enabled, memory.has_room) == (OFF, False, False)
    assert not memory.pin(weight())
    assert not memory.pin_inner([torch.zeros(8)])
    assert runtime.registered == 0
    assert caplog.messages == []


def test_s07_the_budget_is_said_in_mib(
    runtime: Runtime, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(backends.of_kind("cpu"), "total", lambda device: 16 * GB)
    monkeypatch.setattr("limner.memory.pinned.on_windows", lambda: False)
    memory = PinnedMemory.of(runtime, DefaultSettings(), unified=False)
    assert memory.budget == 16 * GB * 95 // 100
    assert caplog.messages == ["Enabled pinned memory 15564"]


def test_s07_a_limit_of_ones_own_wins() -> None:
    assert allowed(pinned_memory_limit=Size.parse("8G")) == 8 * GB
    assert allowed(pinned_memory_limit=Size.parse("25%"), windows=True) == 25 * GB
    assert allowed(pinned_memory_limit=Size.parse("0")) == OFF
    assert allowed(pinned_memory_limit=Size.parse("8G"), disable_pinned_memory=True) == OFF


def test_s07_in_the_computers_own_memory_nothing_is_gained_unless_asked_for() -> None:
    assert allowed(unified=True) == OFF
    assert allowed(unified=True, pinned_memory_limit=Size.parse("8G")) == 8 * GB


def test_s07_a_containers_limit_is_the_ram(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limner.memory.cgroups.limit", lambda: 100 * KIB)
    monkeypatch.setattr("limner.memory.pinned.on_windows", lambda: False)
    assert PinnedMemory.of(runtime, DefaultSettings(), unified=False).budget == 95 * KIB


@pytest.mark.parametrize("hip", [None, "6.4"], ids=["nvidia", "amd"])
def test_s08_amd_pins_as_nvidia_does(monkeypatch: pytest.MonkeyPatch, hip: str | None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.version, "hip", hip)
    pinning = backends.of_kind("cuda").pinning()
    assert PinnedMemory(pinning, GB).enabled


@pytest.mark.parametrize("kind", ["cpu", "xpu", "mps", "npu"])
def test_s08_other_kinds_pin_nothing(kind: str) -> None:
    assert backends.of_kind(kind).pinning() is None
    memory = PinnedMemory(None, GB)
    assert not memory.pin(weight())
    assert not memory.enabled


def test_s09_what_is_locked_is_not_locked_again(runtime: Runtime, memory: PinnedMemory) -> None:
    one = weight()
    assert memory.pin(one)
    assert not memory.pin(one)
    assert not memory.pin(nn.Parameter(one.data, requires_grad=False)), "another parameter over the same memory"
    assert (runtime.registered, memory.total) == (1, KIB)


def test_s09_what_another_has_locked_is_left_alone(runtime: Runtime, memory: PinnedMemory) -> None:
    one = weight()
    runtime.foreign.add(one.data_ptr())
    assert not memory.pin(one)
    assert (runtime.registered, memory.total) == (0, 0)


def test_s10_only_what_was_locked_here_is_unlocked(
    runtime: Runtime, memory: PinnedMemory, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = weight()
    runtime.foreign.add(foreign.data_ptr())
    assert not memory.unpin(foreign)
    assert runtime.unregistered == 0
    assert caplog.messages == ["Not unpinned: a tensor of 1024 bytes that was not pinned here."]


def test_s10_what_has_another_size_since_is_not_unlocked(
    runtime: Runtime, memory: PinnedMemory, caplog: pytest.LogCaptureFixture
) -> None:
    one = weight()
    memory.pin(one)
    one.data = one.data[:100]
    assert not memory.unpin(one)
    assert (runtime.unregistered, memory.total) == (0, KIB)
    assert caplog.messages == ["Not unpinned: a tensor of 100 bytes that had 1024 when pinned."]


def test_s10_the_total_is_the_sum_and_nothing_in_the_end(runtime: Runtime, memory: PinnedMemory) -> None:
    one, other = weight(), weight(2 * KIB)
    assert memory.pin(one)
    assert memory.pin(other)
    assert memory.total == 3 * KIB == sum(runtime.locked.values())
    assert memory.unpin(one)
    assert memory.total == 2 * KIB
    assert not memory.unpin(one), "a second time"
    assert memory.unpin(other)
    assert (memory.total, runtime.locked) == (0, {})


def test_s10_memory_is_kept_for_as_long_as_it_is_locked(runtime: Runtime) -> None:
    one = weight(256 * KIB)
    memory = PinnedMemory(runtime, GB)
    memory.pin(one)
    pointer = one.data_ptr()
    del one
    fresh = [weight(256 * KIB) for _ in range(8)]
    assert pointer not in {other.data_ptr() for other in fresh}
    memory.close()
    assert (memory.total, runtime.locked) == (0, {})


class Odd(nn.Parameter):
    """A parameter that is more than that."""


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(16),
        Odd(torch.zeros(16), requires_grad=False),
        nn.Buffer(torch.zeros(16)) if hasattr(nn, "Buffer") else torch.zeros(16),
        nn.Parameter(torch.zeros(4, 4).T[:, :2], requires_grad=False),
        nn.Parameter(torch.zeros(16, device="meta"), requires_grad=False),
        nn.Parameter(torch.zeros(0), requires_grad=False),
        weight(4 * KIB + 1),
    ],
    ids=["tensor", "subclass", "buffer", "strided", "elsewhere", "empty", "too large"],
)
def test_s11_what_is_no_plain_parameter_on_the_cpu_within_the_budget_is_refused(
    runtime: Runtime, memory: PinnedMemory, tensor: Tensor
) -> None:
    assert not memory.pin(tensor)
    assert (runtime.registered, memory.total) == (0, 0)


def test_s11_the_budget_is_for_all_together(runtime: Runtime, memory: PinnedMemory) -> None:
    weights = [weight() for _ in range(6)]
    assert [memory.pin(one) for one in weights] == [True] * 4 + [False] * 2
    assert not memory.has_room
    memory.unpin(weights[0])
    assert memory.has_room
    assert memory.pin(weights[5])
    assert runtime.registered == 5


def test_s11_less_may_be_allowed_than_the_budget_has(runtime: Runtime, memory: PinnedMemory) -> None:
    weights = [weight() for _ in range(3)]
    memory.pin(weights[0])
    memory.allow(KIB)
    assert memory.has_room
    assert [memory.pin(one) for one in weights[1:]] == [True, False]
    assert not memory.has_room
    memory.allow(100 * KIB)
    assert memory.pin(weights[2])
    memory.allow(None)
    assert [memory.pin(weight()), memory.pin(weight())] == [True, False], "the budget holds"


def test_s11_the_inner_tensors_of_a_quantized_one_are_locked_all_or_none(
    runtime: Runtime, memory: PinnedMemory
) -> None:
    inner = [torch.zeros(KIB, dtype=torch.int8), torch.zeros(16, 1)]
    assert memory.pin_inner(inner)
    assert memory.total == KIB + 64
    assert not memory.pin_inner([torch.zeros(8), torch.zeros(4, 4).T]), "the second has gaps"
    assert memory.total == KIB + 64
    assert memory.unpin_inner(inner)
    assert (memory.total, runtime.locked) == (0, {})
    assert not memory.pin_inner([])
    assert not memory.pin_inner([Odd(torch.zeros(16))])


def test_s11_of_inner_tensors_every_one_is_unlocked_even_if_one_is_not_ours(
    runtime: Runtime, memory: PinnedMemory
) -> None:
    inner = [torch.zeros(8), torch.zeros(8)]
    memory.pin_inner(inner)
    assert not memory.unpin_inner([torch.zeros(8), *inner])
    assert runtime.locked == {}


def test_s12_a_failure_clears_the_devices_error_and_is_said(caplog: pytest.LogCaptureFixture) -> None:
    runtime = Runtime(fails=[1])
    memory = PinnedMemory(runtime, 4 * KIB)
    assert not memory.pin(weight())
    assert not runtime.stale, "a later kernel would have met it"
    assert caplog.messages == ["Pinning 1024 bytes failed with error 1; 0 are pinned."]
    assert memory.pin(weight()), "one failure is none"


def test_s12_after_failures_in_a_row_pinning_is_not_tried_any_more(caplog: pytest.LogCaptureFixture) -> None:
    runtime = Runtime(fails=[2] * 10)
    memory = PinnedMemory(runtime, 64 * KIB)
    assert not any(memory.pin(weight()) for _ in range(10))
    assert runtime.registered == TRIES == 3
    assert not memory.enabled
    said = [line for line in caplog.messages if "not tried any more" in line]
    assert said == ["Pinning failed 3 times in a row, so it is not tried any more."]


def test_s12_failures_that_are_not_in_a_row_switch_nothing_off() -> None:
    runtime = Runtime(fails=[2, 2, 0, 2, 2, 0])
    memory = PinnedMemory(runtime, 64 * KIB)
    assert [memory.pin(weight()) for _ in range(7)] == [False, False, True, False, False, True, True]
    assert memory.enabled


def test_s12_what_is_locked_is_unlocked_after_pinning_has_stopped() -> None:
    runtime = Runtime()
    memory = PinnedMemory(runtime, 64 * KIB)
    one = weight()
    memory.pin(one)
    runtime.fails = [2] * 3
    for _ in range(3):
        memory.pin(weight())
    assert not memory.enabled
    assert memory.unpin(one)
    assert memory.total == 0


def test_a_driver_that_does_not_unlock_is_said_and_its_error_cleared(
    runtime: Runtime, memory: PinnedMemory, caplog: pytest.LogCaptureFixture
) -> None:
    one = weight()
    memory.pin(one)
    runtime.fails = [1]
    assert not memory.unpin(one)
    assert not runtime.stale
    assert memory.total == KIB
    assert caplog.messages == ["Unpinning 1024 bytes failed with error 1."]
    assert memory.unpin(one)
