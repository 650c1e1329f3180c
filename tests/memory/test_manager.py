from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from limner.errors import OutOfMemory
from limner.memory import DefaultSettings, MemoryManager, loading
from limner.memory.sizes import Size
from limner.memory.units import Unit

CPU = torch.device("cpu")


@dataclass
class Fake:
    """A network of ten units that counts how often it is placed and patched, and which of them are brought."""

    name: str = "net"
    identity: str = "file"
    size: int = 100
    patches: str = ""
    events: list = field(default_factory=list)
    fails: int = 0

    @property
    def patches_digest(self):
        return self.patches

    def nbytes(self, dtype):
        return self.size

    def place(self, target):
        self.events.append(("place", self.patches))
        return Placed(self)


class Placed:
    def __init__(self, fake):
        self.fake, self.network, self.resident = fake, nn.Identity(), set()
        tenth = fake.size // 10
        self.units = [Unit(str(i), tenth, 0, tenth, making=tenth) for i in range(10)]
        self.patched = self.pinned = 0
        self.patches = fake.patches

    def bring(self, indexes):
        if self.fake.fails:
            self.fake.fails -= 1
            raise torch.OutOfMemoryError
        self.resident |= set(indexes)

    def drop(self, indexes):
        self.resident -= set(indexes)

    def repatch(self, patches):
        self.fake.events.append(("repatch", self.patches, patches))
        self.patches = patches
        return 1

    def close(self):
        self.resident.clear()


@pytest.fixture
def manager(monkeypatch):
    """A manager of a device with 250 bytes, less what is loaded."""
    made = MemoryManager(DefaultSettings(cpu=True))
    monkeypatch.setattr(loading, "get_free_memory", lambda device: 250 - sum(n for _, n in made.resident()))
    return made


def load(manager, fake, **settings):
    with manager.loaded(fake, torch.float32, **settings) as network:
        return network


def test_a_network_is_loaded_once(manager):
    fake = Fake()
    assert load(manager, fake) is load(manager, fake)
    assert fake.events == [("place", "")]


def test_changed_patches_are_applied_to_what_is_loaded(manager):
    fake = Fake()
    load(manager, fake)
    load(manager, Fake(patches="lora"))
    load(manager, Fake(patches="lora"))
    assert fake.events == [("place", ""), ("repatch", "", "lora")]


def test_going_back_to_no_patches_patches_again(manager):
    fake = Fake(patches="lora")
    load(manager, fake)
    load(manager, Fake())
    assert fake.events == [("place", "lora"), ("repatch", "lora", "")]


def test_patches_that_differ_while_the_network_is_in_use_get_a_copy(manager):
    first, second = Fake(), Fake(patches="lora")
    with manager.loaded(first, torch.float32) as one, manager.loaded(second, torch.float32) as two:
        assert one is not two
    assert second.events == [("place", "lora")]
    assert [held.in_use for held in manager.held()] == [False]


def test_a_failed_repatch_leaves_nothing_half_patched(manager, monkeypatch):
    load(manager, Fake())

    def fail(*_):
        raise RuntimeError

    monkeypatch.setattr(Placed, "repatch", fail)
    with pytest.raises(RuntimeError):
        load(manager, Fake(patches="lora"))
    assert manager.resident() == []


def test_the_longest_unused_makes_room_as_far_as_is_needed(manager):
    for identity in ("a", "b", "c"):
        load(manager, Fake(name=identity, identity=identity))
    assert manager.resident() == [("a", 40), ("b", 100), ("c", 100)]  # a unit takes its bytes in passing


def test_room_is_made_for_the_computation_too(manager):
    load(manager, Fake(name="a", identity="a"))
    load(manager, Fake(name="b", identity="b"), working=100)
    assert manager.resident() == [("a", 50), ("b", 100)]  # by then its units have been made


def test_a_network_gives_way_to_its_own_computation_and_is_streamed(manager):
    load(manager, Fake())
    load(manager, Fake(), working=200)
    assert manager.resident() == [("net", 40)]  # using those that are gone takes one in passing


def test_what_is_used_sooner_stays_where_streaming_costs_no_more(manager):
    one, other, single = (Fake(name=name, identity=name, size=120) for name in ("one", "other", "single"))
    for _ in range(3):
        load(manager, one)
        load(manager, other)
        load(manager, single, passes=1)
    # `one` comes next, `single` after both: it is streamed rather than let others be loaded again
    there = dict(manager.resident())
    assert there["one"] >= 108  # one unit gave way to what loading takes in passing
    assert there["other"] > there["single"]


def test_a_cap_refuses_what_cannot_fit_before_anything_runs(monkeypatch):
    made = MemoryManager(DefaultSettings(cpu=True, max_ram=Size.parse("1M")))
    with pytest.raises(OutOfMemory, match="--max-ram") as caught, made.loaded(Fake(), torch.float32, working=50 << 20):
        pytest.fail("it ran")
    assert "50 MB to compute" in caught.value.why
    assert "Make the picture" in caught.value.do


def test_results_go_before_networks_where_ram_is_short(manager):
    asked = []
    load(manager, Fake(name="a", identity="a"))
    manager.add_relief(lambda needed: asked.append(needed) or 0)
    load(manager, Fake(name="b", identity="b"), working=100)
    assert asked == [50]


def test_a_run_is_remembered_with_its_estimate_and_its_peak(manager):
    load(manager, Fake(), working=7)
    (run,) = manager.last_runs()
    assert (run.name, run.device, run.estimated) == ("net", "cpu", 7)
    assert run.measured >= 0


def test_one_line_is_logged_at_each_load_and_partial_unload_and_unload(manager, caplog):
    caplog.set_level("INFO", logger="limner.memory.manager")
    load(manager, Fake())
    load(manager, Fake(), working=200)
    manager.unload_all()
    told = [record.message for record in caplog.records if "net" in record.message and "took" not in record.message]
    assert [line.split(" 0 MB")[0] for line in told] == ["Loaded", "Partly unloaded", "Unloaded"]
    assert told[1].endswith("of the net: 0 MB on cpu, 0 MB streamed.")


def test_a_network_in_use_stays(manager):
    with manager.loaded(Fake(name="a", identity="a"), torch.float32):
        manager.unload_all()
        assert len(manager.resident()) == 1
    manager.unload_all()
    assert manager.resident() == []


def test_out_of_memory_while_loading_unloads_everything_and_tries_again(manager):
    load(manager, Fake(name="a", identity="a"))
    load(manager, Fake(name="b", identity="b", fails=1))
    assert manager.resident() == [("b", 100)]


def test_out_of_memory_says_how_much_was_asked_and_what_is_resident(manager):
    with manager.loaded(Fake(name="the other", identity="a"), torch.float32), pytest.raises(OutOfMemory) as caught:
        load(manager, Fake(name="network", identity="b", fails=2))
    assert "network" in caught.value.what
    assert "the other" in caught.value.why
    assert caught.value.do


def test_out_of_memory_in_the_computation_is_told_the_same_way(manager):
    with pytest.raises(OutOfMemory), manager.loaded(Fake(), torch.float32):
        raise torch.OutOfMemoryError


def test_without_smart_memory_nothing_stays(monkeypatch):
    made = MemoryManager(DefaultSettings(cpu=True, disable_smart_memory=True))
    load(made, Fake())
    assert made.resident() == []


def test_other_dtypes_are_other_networks(manager):
    fake = Fake(size=10)
    load(manager, fake)
    with manager.loaded(fake, torch.bfloat16):
        assert len(manager.resident()) == 2


def test_available_counts_what_could_be_unloaded(manager):
    load(manager, Fake())
    assert manager.free_memory(CPU) == 150
    assert manager.available(CPU) == 250


def test_free_memory_of_no_device_in_particular_is_that_of_the_newest_managers(monkeypatch):
    asked = []
    monkeypatch.setattr("limner.memory.devices.free_memory", lambda device: asked.append(device) or 7)
    manager = MemoryManager(DefaultSettings(cpu=True), torch.device("meta"))
    assert loading.get_free_memory() == 7
    assert asked == [manager.own_device]


def test_a_network_that_is_forgotten_is_loaded_again_though_it_is_in_use():
    manager, fake = MemoryManager(DefaultSettings(cpu=True)), Fake()
    with manager.loaded(fake, None):
        manager.forget(fake)
        assert not manager.holds(fake)
        with manager.loaded(fake, None):
            assert manager.holds(fake)
    assert [event for event, *_ in fake.events] == ["place", "place"]
    assert (manager.held()[0].in_use, manager.held()[0].dtype) == (False, "as stored")
    assert len(manager.held()) == 1
