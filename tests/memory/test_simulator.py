"""The real memory manager on devices of numbers: recorded traces, small ones against the best order, a timeline."""

from __future__ import annotations

import itertools

import pytest
import torch

from limner.memory import loading
from limner.memory import manager as manager_module
from limner.memory.settings import DefaultSettings
from limner.memory.sizes import Size
from limner.memory.units import Unit
from tests.memory.brute_force import Step, fewest
from tests.memory.full_size import sized
from tests.memory.replay import Replay, names, replayed, trace, unrolled
from tests.memory.simulator import (
    DEVICE,
    BrokenRule,
    FakeBackend,
    FakePatches,
    FakePlacement,
    Request,
    Simulation,
    elapsed,
)
from tests.memory.small_traces import CHUNK, Small, small_traces

GB = 1000**3
BUDGETS = (4, 6, 8, 12, 24, 80)
SMALL = small_traces()
FORESIGHT = {"two checkpoints", "three in turn", "two texts between"}
"""Small traces in which the best order needs to know what comes before it has come once."""


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is freed by collecting garbage, which takes longer than a replay."""
    monkeypatch.setattr(loading, "soft_empty_cache", lambda force=False: None)


# -- recorded traces --------------------------------------------------------------------------------------------------


def test_there_are_traces_of_every_kind() -> None:
    assert len(names()) >= 44
    asked = {name: [event[0] for event in unrolled(trace(name).events)] for name in names()}
    assert sum("others" in kinds for kinds in asked.values()) >= 4
    assert sum(bool(trace(name).patches) for name in names()) >= 8
    assert sum(any(key.endswith(".control") for key in trace(name).networks) for name in names()) >= 6
    assert sum(any(key.endswith(".decoder") for key in trace(name).networks) for name in names()) >= 2
    several = [name for name in names() if sum(key.endswith(".diffusion") for key in trace(name).networks) > 1]
    assert len(several) >= 10


@pytest.mark.parametrize("size", BUDGETS, ids=lambda size: f"{size}GB")
@pytest.mark.parametrize("name", names())
def test_a_recorded_trace_breaks_no_rule(name: str, size: int) -> None:
    """The rules hold at every moment of the replay; here is what is true at its end."""
    simulation = replayed(name, size * GB, DefaultSettings())
    report, manager = simulation.report, simulation.manager
    assert report.requests > report.refused
    assert simulation.backend.used(DEVICE) == sum(one.resident for one in manager.held()) == 0, "something is left"
    if size == max(BUDGETS):
        assert report.refused == 0
    if _fits(name, size * GB):
        assert simulation.moved.streamed == 0
        if [event[0] for event in trace(name)].count("unload") == 1:
            assert simulation.moved.brought == sum(_moved(network, name) for network in trace(name).networks)


def _fits(name: str, size: int) -> bool:
    """Whether all networks of a trace, and what they compute with, are on a device at once."""
    asked = trace(name)
    working = max(event[2].get("working", 0) for event in asked if event[0] == "enter")
    others = max((event[1] for event in asked if event[0] == "others"), default=0)
    return sum(sized(*one).nbytes for one in asked.networks.items()) + working + others + GB // 2 <= size


def _moved(network: str, name: str) -> int:
    return sum(unit.moved for unit in sized(network, trace(name).networks[network]).units)


@pytest.mark.parametrize("size", [8, 24], ids=lambda size: f"{size}GB")
@pytest.mark.parametrize("name", ["sdxl_texts", "sdxl_lora_passes", "flux_texts", "flux_control", "sdxl_others_within"])
@pytest.mark.parametrize(
    "settings",
    [
        DefaultSettings(max_vram=Size.parse("5G")),
        DefaultSettings(max_vram=Size.parse("50%")),
        DefaultSettings(reserve_vram=2.0),
        DefaultSettings(disable_async_offload=True),
    ],
    ids=["5G", "half", "reserve", "one stream"],
)
def test_a_cap_or_a_reserve_is_kept_too(name: str, size: int, settings: DefaultSettings) -> None:
    simulation = replayed(name, size * GB, settings)
    cap = simulation.manager.cap(DEVICE)
    assert simulation.report.requests > simulation.report.refused
    if cap is not None:
        assert 0 < simulation.report.highest <= cap


@pytest.mark.parametrize("name", ["sd1_seeds", "sdxl_texts", "flux_seeds"])
def test_novram_keeps_nothing_and_lowvram_keeps_less(name: str) -> None:
    streamed, kept = {}, {}
    for mode, settings in {
        "novram": DefaultSettings(novram=True),
        "lowvram": DefaultSettings(lowvram=True),
        "normal": DefaultSettings(),
    }.items():
        simulation = replayed(name, 12 * GB, settings, strict=False)
        assert simulation.report.refused == 0
        streamed[mode], kept[mode] = simulation.moved.streamed, simulation.moved.brought
    fixed = sum(
        unit.moved
        for network, dtype in trace(name).networks.items()
        for unit in sized(network, dtype).units
        if unit.fixed
    )
    assert kept["novram"] <= fixed
    assert streamed["novram"] >= streamed["lowvram"] >= streamed["normal"]


def test_highvram_brings_a_network_once_where_all_fit() -> None:
    simulation = replayed("sdxl_lora_passes", 24 * GB, DefaultSettings(highvram=True), strict=False)
    assert simulation.moved.streamed == 0
    assert simulation.moved.brought == sum(
        _moved(one, "sdxl_lora_passes") for one in trace("sdxl_lora_passes").networks
    )


def test_a_device_twice_as_large_never_moves_more_by_much() -> None:
    for name in ("sdxl_texts", "flux_texts", "sdxl_three", "sd1_batches"):
        moved = [replayed(name, size * GB, DefaultSettings()).moved.total for size in (4, 8, 16, 32, 64)]
        assert all(larger <= 1.05 * smaller for smaller, larger in itertools.pairwise(moved)), (name, moved)


def test_patches_between_passes_touch_only_what_they_change() -> None:
    """On a device that holds all, weights that no LoRA changes cross once."""
    simulation = replayed("sdxl_lora_passes", 80 * GB, DefaultSettings())
    passes = 6
    attention = sum(
        unit.moved for unit in sized("sdxl.diffusion", "bfloat16").units if ".attn" in unit.name or ".ff." in unit.name
    )
    assert 0 < simulation.moved.repatched < passes * attention


def test_a_trace_that_is_asked_twice_is_learnt() -> None:
    """What followed a request once is expected to follow it again."""
    simulation = Simulation(FakeBackend(8 * GB), DefaultSettings())
    first = Replay(trace("sdxl_three"), simulation).run().moved.total
    again = Replay(trace("sdxl_three"), simulation).run().moved.total - first
    assert again <= first


# -- the best order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("small", SMALL, ids=lambda small: small.name)
def test_a_small_trace_that_was_seen_moves_at_most_a_twentieth_more_than_the_best_order(small: Small) -> None:
    best = small.fewest()
    assert best <= small.moved(seen=1) <= 1.05 * best


@pytest.mark.parametrize("small", SMALL, ids=lambda small: small.name)
def test_a_small_trace_that_is_new_moves_little_more_than_with_foresight(small: Small) -> None:
    best = small.fewest()
    assert best <= small.moved() <= (1.15 if small.name in FORESIGHT else 1.05) * best


def test_trying_all_finds_orders_that_are_known() -> None:
    turns = [Step(0), Step(1)] * 3
    assert fewest([4, 4], turns, 8) == 8  # both stay
    assert fewest([4, 4], turns, 6) == 12  # one stays, half of the other crosses each time
    assert fewest([4, 4], turns, 4) == 16  # one stays, the other crosses each time
    assert fewest([4], [Step(0, passes=20)], 3, buffer=1) == 2 + 20 * 2  # half of it is streamed
    assert fewest([4], [Step(0), Step(0, patches=1), Step(0)], 9) == 12  # patched anew each time
    assert fewest([4], [Step(0, working=5), Step(0)], 8) == 5  # one chunk makes room once
    with pytest.raises(ValueError, match="cannot be served"):
        fewest([4], [Step(0, working=4)], 4, buffer=1)


def test_trying_all_is_no_worse_than_any_order_that_is_made_up() -> None:
    steps = [Step(0), Step(1, 1, 3), Step(2), Step(1, 2, 3)]
    sizes, capacity = [2, 3, 2], 5
    best = fewest(sizes, steps, capacity, buffer=1)
    for kept in itertools.product(range(3), range(4), range(3), range(4)):
        here, cost = [0, 0, 0], 0
        for step, keep in zip(steps, kept, strict=True):
            whole = sizes[step.network]
            cost += max(0, keep - here[step.network]) + step.passes * (whole - keep)
            here[step.network] = keep
            room = capacity - step.working - (1 if keep < whole else 0)
            if keep > room:
                cost = 1 << 30
            for other in range(3):
                if other != step.network:
                    here[other] = max(0, min(here[other], room - sum(n for i, n in enumerate(here) if i != other)))
        assert cost >= best


# -- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sdxl_texts", "flux_texts"])
def test_a_faster_link_never_takes_longer_and_computing_hides_what_it_can(name: str) -> None:
    log = replayed(name, 6 * GB, DefaultSettings()).report.log
    passes = sum(kind == "pass" for kind, _ in log)
    times = [elapsed(log, link, compute=0.5) for link in (1e9, 4e9, 12e9, 25e9, 60e9)]
    assert times == sorted(times, reverse=True)
    assert times[0] > times[-1]
    assert times[-1] >= 0.5 * passes
    one_after_the_other = sum(nbytes for _, nbytes in log) / 12e9 + 0.5 * passes
    assert times[2] < one_after_the_other


# -- the simulator sees what is wrong ---------------------------------------------------------------------------------


def _simulation(chunks: int = 8, **settings: object) -> Simulation:
    return Simulation(FakeBackend(chunks * CHUNK), DefaultSettings(reserve_vram=0.0, **settings))  # type: ignore[arg-type]


def _request(simulation: Simulation, name: str, chunks: int, working: int = 0, patches: str = "") -> Request:
    units = [Unit(f"{name}.{i}", CHUNK, CHUNK // 2, CHUNK) for i in range(chunks)]
    found = FakePatches(patches, (patches,) * chunks) if patches else None
    return Request(simulation.source(name, units, found, making=0), working * CHUNK)


def test_the_simulator_sees_a_network_that_is_dropped_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = _simulation()
    with simulation.using(_request(simulation, "a", 4)):
        pass
    needy = manager_module.policy.reclaim
    monkeypatch.setattr(
        manager_module.policy, "reclaim", lambda all_of, needed, sooner=-1: needy(all_of, 99 << 30, sooner)
    )
    with pytest.raises(BrokenRule, match="stay free"), simulation.using(_request(simulation, "b", 5)):
        pass


def test_the_simulator_sees_a_request_that_finds_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = _simulation()
    with simulation.using(_request(simulation, "a", 6)):
        pass
    monkeypatch.setattr(manager_module.policy, "reclaim", lambda *_: [])
    with pytest.raises(BrokenRule, match="finds"), simulation.using(_request(simulation, "b", 2, working=4)):
        pass


def test_the_simulator_sees_a_network_with_the_patches_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = _simulation()
    with simulation.using(_request(simulation, "a", 4)):
        pass

    def forget(placement: FakePlacement, patches: FakePatches) -> int:
        placement.patches = patches
        return 0

    monkeypatch.setattr(FakePlacement, "repatch", forget)
    with pytest.raises(BrokenRule, match="patches"), simulation.using(_request(simulation, "a", 4, patches="lora")):
        pass


def test_the_simulator_sees_a_unit_that_is_brought_again() -> None:
    simulation = _simulation()
    with simulation.using(_request(simulation, "a", 4)) as use:
        assert use.placement is not None
        with pytest.raises(BrokenRule, match="brought again"):
            use.placement.bring([0])


def test_the_device_gives_no_more_than_it_has_and_others_take_only_what_is_free() -> None:
    backend = FakeBackend(8 * CHUNK)
    backend.take(6 * CHUNK)
    backend.let_others(5 * CHUNK)
    assert backend.others == 2 * CHUNK
    with pytest.raises(torch.OutOfMemoryError):
        backend.take(1)
    backend.give(2 * CHUNK)
    backend.let_others()
    assert backend.others == 4 * CHUNK


def test_what_cannot_fit_is_refused_and_the_next_request_is_served() -> None:
    simulation = _simulation()
    with simulation.using(_request(simulation, "a", 4, working=9)):
        pass
    with simulation.using(_request(simulation, "b", 4, working=2)) as use:
        assert use.placement is not None
        assert len(use.placement.resident) == 4
    assert (simulation.report.requests, simulation.report.refused) == (2, 1)


def test_a_network_inside_the_block_of_another_leaves_it_what_it_computes_with() -> None:
    """A preview's decoder, or a ControlNet that is entered again at each step."""
    simulation = _simulation(chunks=8)
    outer, inner = _request(simulation, "outer", 4, working=3), _request(simulation, "inner", 4)
    with simulation.using(outer, passes=1) as use:
        for _ in range(3):
            with simulation.using(inner, passes=1):
                pass
            simulation.run(use)
    assert simulation.report.refused == 0


def test_memory_that_others_give_back_is_used_by_the_next_request() -> None:
    simulation = _simulation(chunks=8)
    request = _request(simulation, "a", 6, working=1)
    simulation.backend.let_others(4 * CHUNK)
    with simulation.using(request) as use:
        assert use.placement is not None
        assert len(use.placement.resident) == 2  # one chunk to compute with, one for the buffers
    simulation.backend.let_others(0)
    with simulation.using(request) as use:
        assert use.placement is not None
        assert len(use.placement.resident) == 6
