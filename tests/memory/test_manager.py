from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from limner.errors import OutOfMemory
from limner.memory import DefaultSettings, MemoryManager, loading
from limner.memory import manager as manager_module

CPU = torch.device("cpu")


@dataclass
class Fake:
    """A network of so many bytes that counts how often it is loaded and patched."""

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

    def load(self, device, dtype, channels_last=False):
        if self.fails:
            self.fails -= 1
            raise torch.OutOfMemoryError
        self.events.append(("load", self.patches))
        return nn.Identity()

    def update(self, network, loaded, device, dtype, channels_last=False):
        self.events.append(("update", loaded, self.patches))


@pytest.fixture
def manager(monkeypatch):
    """A manager of a device with 250 bytes, less what is loaded."""
    made = MemoryManager(DefaultSettings(cpu=True))
    monkeypatch.setattr(manager_module.devices, "free_memory", lambda device: 250 - sum(n for _, n in made.resident()))
    return made


def load(manager, fake, **settings):
    with manager.loaded(fake, torch.float32, **settings) as network:
        return network


def test_a_network_is_loaded_once(manager):
    fake = Fake()
    assert load(manager, fake) is load(manager, fake)
    assert fake.events == [("load", "")]


def test_changed_patches_are_applied_to_what_is_loaded(manager):
    load(manager, Fake())
    patched = Fake(patches="lora")
    load(manager, patched)
    load(manager, patched)
    assert patched.events == [("update", "", "lora")]


def test_going_back_to_no_patches_patches_again(manager):
    load(manager, Fake(patches="lora"))
    plain = Fake()
    load(manager, plain)
    assert plain.events == [("update", "lora", "")]


def test_patches_that_differ_while_the_network_is_in_use_get_a_copy(manager):
    first, second = Fake(), Fake(patches="lora")
    with manager.loaded(first, torch.float32) as one, manager.loaded(second, torch.float32) as two:
        assert one is not two
    assert second.events == [("load", "lora")]


def test_a_failed_repatch_leaves_nothing_half_patched(manager):
    load(manager, Fake())

    class Failing(Fake):
        def update(self, *_, **__):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        load(manager, Failing(patches="lora"))
    assert manager.resident() == []


def test_the_oldest_makes_room(manager):
    for identity in ("a", "b", "c"):
        load(manager, Fake(name=identity, identity=identity))
    assert [name for name, _ in manager.resident()] == ["b", "c"]


def test_room_is_made_for_the_computation_too(manager):
    load(manager, Fake(name="a", identity="a"))
    load(manager, Fake(name="b", identity="b"), working=100)
    assert [name for name, _ in manager.resident()] == ["b"]


def test_a_network_does_not_make_room_for_its_own_computation(manager):
    load(manager, Fake())
    load(manager, Fake(), working=10_000)
    assert [name for name, _ in manager.resident()] == ["net"]


def test_a_network_in_use_stays(manager):
    with manager.loaded(Fake(name="a", identity="a"), torch.float32):
        manager.unload_all()
        assert len(manager.resident()) == 1
    manager.unload_all()
    assert manager.resident() == []


def test_out_of_memory_while_loading_unloads_everything_and_tries_again(manager):
    load(manager, Fake(name="a", identity="a"))
    load(manager, Fake(name="b", identity="b", fails=1))
    assert [name for name, _ in manager.resident()] == ["b"]


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
    assert [event for event, _ in fake.events] == ["load", "load"]
