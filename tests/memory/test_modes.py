"""Each flag of memory does what it says; several devices do not disturb each other."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from limner.errors import OutOfMemory
from limner.memory import DefaultSettings, MemoryManager, backends
from limner.memory.sizes import Size
from limner.memory.units import Unit

GB = 1 << 30
FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")


class Card:
    """Devices of 8 GB, of which networks take what they have there and other programs `others`; no streams."""

    kind = "cuda"

    def __init__(self, others=0):
        self.others, self.manager, self.trims, self.caps = others, None, [], {}

    def count(self):
        return 2

    def is_unified(self, device):
        return False

    def total(self, device):
        return 8 * GB

    def used(self, device):
        return sum(one.resident for one in self.manager.held() if one.device == str(device))

    def free(self, device):
        return self.total(device) - self.others - self.used(device)

    def held(self, device):
        return 0

    def trim(self, device):
        self.trims.append(device)

    def cap(self, device, nbytes):
        self.caps[device] = nbytes

    def start_peak(self, device):
        pass

    def peak(self, device):
        return self.used(device)

    def synchronize(self, device):
        pass

    def stream(self, device):
        return None

    def pinning(self):
        return None


def a_manager(others=0, **settings):
    card = Card(others)
    card.manager = MemoryManager(DefaultSettings(**{"reserve_vram": 0.0, **settings}), FIRST, card)
    return card.manager


@dataclass
class Network:
    """Sixty equal units. fails: how often bringing them runs out of memory."""

    name: str
    size: int
    fails: int = 0
    patches: str = ""
    patches_digest: str = ""

    @property
    def identity(self):
        return self.name

    def nbytes(self, dtype):
        return self.size

    def place(self, target):
        return Placed(self)


class Placed:
    def __init__(self, network):
        self.owner, self.network, self.resident = network, nn.Identity(), set()
        self.units = [Unit(str(i), network.size // 60, 0, network.size // 60) for i in range(60)]
        self.patched = self.pinned = 0

    def bring(self, indexes):
        if self.owner.fails:
            self.owner.fails -= 1
            raise torch.OutOfMemoryError
        self.resident |= set(indexes)

    def drop(self, indexes):
        self.resident -= set(indexes)

    def repatch(self, patches):
        self.resident -= {0}
        return 1

    def close(self):
        self.resident.clear()


@dataclass
class Patched:
    """Patches of the first unit."""

    digest: str


def network(name, gigabytes=3):
    return Network(name, int(gigabytes * GB))


def load(manager, source, **wanted):
    with manager.loaded(source, torch.float32, **wanted):
        pass


def there(manager, device=FIRST):
    """Gigabytes of each network on a device, to a tenth."""
    return {one.name: round(one.resident / GB, 1) for one in manager.held() if one.device == str(device)}


@pytest.mark.parametrize("mode", [None, "normalvram"])
def test_normally_networks_stay_while_there_is_room_and_give_way_as_far_as_is_needed(mode):
    manager = a_manager(**({mode: True} if mode else {}))
    for name in "abc":
        load(manager, network(name))
    assert there(manager) == {"a": 2.0, "b": 3.0, "c": 3.0}
    load(manager, network("c"), working=4 * GB)
    assert there(manager) == {"b": 1.0, "c": 3.0}
    load(manager, network("c"), working=6 * GB)
    assert there(manager) == {"c": 2.0}
    assert manager.text_device == manager.vae_device == FIRST


def test_gpu_only_never_lets_anything_off_the_device_for_an_estimate():
    manager = a_manager(gpu_only=True)
    for name in "abc":
        load(manager, network(name, 2))
    load(manager, network("c", 2), working=7 * GB)
    assert there(manager) == {"a": 2.0, "b": 2.0, "c": 2.0}
    manager.free(8 * GB)
    assert there(manager) == {"a": 2.0, "b": 2.0, "c": 2.0}
    assert round(manager.available() / GB, 3) == 2
    assert manager.text_device == manager.vae_device == FIRST


def test_gpu_only_lets_go_where_memory_is_really_out():
    manager = a_manager(gpu_only=True)
    load(manager, network("a"))
    second = network("b")
    second.fails = 1
    load(manager, second)
    assert there(manager) == {"b": 3.0}


def test_gpu_only_obeys_a_cap():
    manager = a_manager(gpu_only=True, max_vram=Size.parse("4G"))
    load(manager, network("a"))
    load(manager, network("b"))
    assert there(manager) == {"a": 1.0, "b": 3.0}
    load(manager, network("b"), working=2 * GB)
    assert sum(there(manager).values()) <= 4


def test_highvram_keeps_networks_whole_after_use_and_for_their_own_computation():
    manager = a_manager(highvram=True)
    load(manager, network("a"))
    load(manager, network("b"), working=int(7.5 * GB))
    assert there(manager)["b"] == 3.0
    load(manager, network("c", 6))
    assert there(manager)["c"] == 6.0  # what another needs is given by those that are idle
    assert manager.text_device == FIRST


def test_lowvram_streams_half_of_what_would_fit_and_encodes_text_on_the_cpu():
    manager = a_manager(lowvram=True)
    load(manager, network("a", 6), working=2 * GB)
    assert there(manager) == {"a": 3.0}
    assert manager.text_device == torch.device("cpu")
    assert manager.vae_device == FIRST


def test_novram_streams_all_weights():
    manager = a_manager(novram=True)
    load(manager, network("a", 1))
    assert there(manager) == {"a": 0.0}
    assert manager.text_device == torch.device("cpu")


def test_cpu_uses_no_device():
    manager = MemoryManager(DefaultSettings(cpu=True))
    assert {manager.device, manager.text_device, manager.vae_device} == {torch.device("cpu")}


def test_reserve_vram_is_left_to_others():
    manager = a_manager(reserve_vram=3.0)
    assert manager.free_memory() == 5 * GB
    load(manager, network("a", 6))
    assert there(manager) == {"a": 5.0}
    assert a_manager(reserve_vram=None).free_memory() == 8 * GB - int(0.4 * GB)


def test_disable_smart_memory_keeps_nothing_after_use():
    manager = a_manager(disable_smart_memory=True)
    load(manager, network("a"))
    assert there(manager) == {}


def test_max_vram_holds_for_what_is_there_and_what_is_computed():
    manager = a_manager(max_vram=Size.parse("4G"))
    load(manager, network("a", 3), working=2 * GB)
    assert there(manager) == {"a": 2.0}
    with pytest.raises(OutOfMemory, match="--max-vram 4096 MB"):
        load(manager, network("a", 3), working=5 * GB)


def test_what_other_programs_take_is_not_counted_on():
    manager = a_manager(others=6 * GB)
    load(manager, network("a", 3))
    assert there(manager) == {"a": 2.0}


def test_a_network_on_one_device_leaves_the_others_alone():
    manager = a_manager()
    load(manager, network("a", 6), device=FIRST)
    load(manager, network("b", 6), device=SECOND)
    load(manager, network("c", 6), device=SECOND)
    assert there(manager, FIRST) == {"a": 6.0}
    assert there(manager, SECOND) == {"b": 2.0, "c": 6.0}
    failing = network("d", 6)
    failing.fails = 1
    load(manager, failing, device=SECOND)
    assert there(manager, FIRST) == {"a": 6.0}
    assert there(manager, SECOND) == {"d": 6.0}


def test_room_after_a_computation_that_ran_out_is_made_on_its_device_alone():
    manager, one = a_manager(), network("b")
    load(manager, network("a"), device=FIRST)
    with manager.loaded(one, torch.float32, device=SECOND):
        load(manager, network("c"), device=SECOND)
        manager.relieve(one, GB, SECOND)
        assert there(manager, SECOND) == {"b": 1.9}  # whole units
    assert there(manager, FIRST) == {"a": 3.0}


def test_the_default_device_is_where_networks_run(monkeypatch):
    monkeypatch.setattr(backends, "accelerators", lambda: [Card()])
    assert MemoryManager(DefaultSettings(default_device=1)).device == SECOND


def test_patches_that_change_in_a_run_leave_it_what_it_computes_with():
    manager, one = a_manager(), network("a", 6)
    with manager.loaded(one, torch.float32, working=10 * GB, least=3 * GB) as module:
        assert there(manager) == {"a": 5.0}
        manager.repatch(module, Patched("others"))
        assert there(manager) == {"a": 5.0}
        manager.relieve(one, GB)
        manager.repatch(module, Patched("more"))
        assert there(manager) == {"a": 4.0}
    load(manager, one)
    assert there(manager) == {"a": 6.0}
