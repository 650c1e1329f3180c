"""Rows S14 to S17 of the seed: a network that is loaded gives way when more is wanted, and keeps its patches right."""

from __future__ import annotations

import logging

import pytest

from limner.memory import loading, policy
from limner.memory.settings import DefaultSettings
from limner.memory.units import Unit
from tests.memory.simulator import DEVICE, FakeBackend, FakePatches, Request, Simulation

MIB = 1 << 20
UNITS = [Unit(f"block.{i}", MIB, MIB // 2, MIB) for i in range(200)]
LORA = FakePatches("lora", ("lora",) * 40 + ("",) * 160)


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "soft_empty_cache", lambda force=False: None)


def device(mib: int = 256, **settings: object) -> Simulation:
    """A device of numbers on which nothing is left to other programs."""
    return Simulation(FakeBackend(mib * MIB), DefaultSettings(reserve_vram=0.0, **settings))  # type: ignore[arg-type]


def request(simulation: Simulation, working: int = 0, patches: FakePatches | None = None, name: str = "net") -> Request:
    """A network of 200 MiB and so many MiB to compute with."""
    return Request(simulation.source(name, UNITS, patches, making=0), working * MIB)


def resident(simulation: Simulation) -> int:
    """Bytes of weights on the device."""
    return sum(one.resident for one in simulation.manager.held())


# -- S14: unload on growth --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("working", [57, 100, 150, 200, 250])
def test_s14_a_loaded_network_gives_back_what_a_larger_computation_lacks(working: int) -> None:
    simulation = device()
    with simulation.using(request(simulation, 50)):
        pass
    assert resident(simulation) == 200 * MIB
    lacking = 200 + working - 256
    with simulation.using(request(simulation, working), passes=3):
        shrunk = 200 * MIB - resident(simulation)
        assert lacking * MIB <= shrunk <= (lacking + 2) * MIB  # the buffers take one, and one is rounding
    assert simulation.moved.streamed == 3 * shrunk
    assert simulation.moved.brought == 200 * MIB, "something was loaded again"


def test_s14_a_smaller_computation_gets_the_network_back_whole() -> None:
    simulation = device()
    for working in (50, 150, 50):
        with simulation.using(request(simulation, working)):
            pass
    assert resident(simulation) == 200 * MIB
    assert simulation.moved.brought < 300 * MIB


def test_s14_other_programs_that_take_memory_are_a_lack_too() -> None:
    simulation = device()
    with simulation.using(request(simulation, 50)):
        pass
    simulation.backend.let_others(56 * MIB)
    with simulation.using(request(simulation, 50)):
        assert resident(simulation) <= (200 - 50) * MIB
        assert simulation.backend.free(DEVICE) >= 50 * MIB
    assert simulation.report.refused == 0


def test_s14_weights_that_gave_way_are_patched_when_they_are_used() -> None:
    """The simulator refuses a pass in which one unit has other patches than it must."""
    simulation = device()
    with simulation.using(request(simulation, 50, LORA)):
        pass
    with simulation.using(request(simulation, 240, LORA)):
        (held,) = simulation.manager.held()
        assert 0 < held.patched <= 40


# -- S15: the line in the log -----------------------------------------------------------------------------------------


def test_s15_one_line_says_what_is_still_loaded_and_how_many_weights_are_patched_when_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    simulation = device()
    with simulation.using(request(simulation, 50, LORA)):
        pass
    with caplog.at_level(logging.INFO, "limner.memory"), simulation.using(request(simulation, 240, LORA)):
        (held,) = simulation.manager.held()
    lines = [record for record in caplog.records if "artly unloaded" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].levelno == logging.INFO
    said = lines[0].getMessage()
    assert f"{held.resident // MIB} MB on" in said
    assert f"{held.patched} patched" in said


# -- S16: patches after reuse -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("working", [(50, 50), (50, 150), (150, 50), (50, 240), (240, 50), (240, 240)])
@pytest.mark.parametrize("patches", [(None, LORA), (LORA, None), (LORA, FakePatches("other", ("other",) * 200))])
def test_s16_a_network_that_is_used_again_has_the_patches_of_its_new_use(
    working: tuple[int, int], patches: tuple[FakePatches | None, FakePatches | None]
) -> None:
    """Whatever gave way in between: each pass is checked unit by unit, and only what differs is made anew."""
    simulation = device()
    for amount, wanted in zip(working, patches, strict=True):
        with simulation.using(request(simulation, amount, wanted), passes=2):
            pass
    before, after = (one or FakePatches() for one in patches)
    differing = sum(before.tag(i) != after.tag(i) for i in range(len(UNITS)))
    assert simulation.moved.repatched <= differing * MIB
    if working == (50, 50):
        assert simulation.moved.repatched == differing * MIB
        assert simulation.moved.brought == 200 * MIB


def test_s16_the_check_of_patches_comes_before_the_decision_what_stays() -> None:
    """The upscale pass: a LoRA is added and more is wanted at once."""
    simulation = device()
    with simulation.using(request(simulation, 50)):
        pass
    with simulation.using(request(simulation, 200, LORA)) as use:
        assert use.placement is not None
        assert use.placement.patches is LORA
        assert len(use.placement.resident) < 60
    with simulation.using(request(simulation, 200)) as use:
        assert use.placement is not None
        assert use.placement.patches.digest == ""


# -- S17: the budget --------------------------------------------------------------------------------------------------

GIB = 1 << 30


@pytest.mark.parametrize(
    ("free", "required", "inference", "ratio", "expected"),
    [
        (8 * GIB, 1 * GIB, 1 * GIB, 0.4, 7 * GIB),  # what is required is left free
        (8 * GIB, 7 * GIB, 1 * GIB, 0.4, int(8 * GIB * 0.4)),  # but the weights get their share
        (2 * GIB, 4 * GIB, 3 * GIB // 2, 0.4, GIB // 2),  # as far as that leaves enough for inference
        (1 * GIB, 4 * GIB, 2 * GIB, 0.4, 128 * MIB),  # and never less than 128 MiB
        (0, 4 * GIB, 1 * GIB, 0.4, 128 * MIB),
        (8 * GIB, 0, 0, 0.0, 8 * GIB),
    ],
)
def test_s17_the_budget_of_weights(free: int, required: int, inference: int, ratio: float, expected: int) -> None:
    assert policy.weights_target(free, required, inference, ratio) == expected


def test_s17_a_budget_below_what_is_loaded_is_negative() -> None:
    assert policy.to_change(100, 150) == -50
    assert policy.to_change(150, 100) == 50


def test_s17_novram_keeps_no_weights_whatever_is_free() -> None:
    simulation = device(1024, novram=True)
    with simulation.using(request(simulation, 10), passes=2):
        assert resident(simulation) == 0
    assert simulation.moved.brought == 0
    assert simulation.moved.streamed == 2 * 200 * MIB


def test_s17_normal_and_lowvram_follow_the_budget() -> None:
    kept = {}
    for mode in ("lowvram", "normalvram"):
        simulation = device(1024, **{mode: True})
        with simulation.using(request(simulation, 700)):
            kept[mode] = resident(simulation)
    assert 0 < kept["lowvram"] < kept["normalvram"] == 200 * MIB
