"""comfy.model_management, comfy.model_patcher and comfy.ops on memory: what they say is what is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from limner.memory import DefaultSettings, MemoryManager, loading
from limner.memory.sizes import Size
from tests.compat.using import place
from tests.memory.double import FakeAccelerator, Pages
from tests.memory.test_modes import FIRST, Card

CPU = torch.device("cpu")


class Locking(Card):
    """Such devices whose driver locks pages."""

    def __init__(self, unified: bool = False, copies: Any = None) -> None:
        super().__init__()
        self.pages, self.unified, self.copies = Pages(FakeAccelerator()), unified, copies

    def is_unified(self, device: torch.device) -> bool:
        return self.unified

    def pinning(self) -> Any:
        return self.pages

    def stream(self, device: torch.device) -> Any:
        return self.copies

    def current(self, device: torch.device) -> Any:
        return Native("computing")


class Native:
    """A stream. native: itself, as torch's own."""

    def __init__(self, name: str) -> None:
        self.name, self.waited = name, []

    @property
    def native(self) -> Any:
        return self

    def wait_stream(self, other: Any) -> None:
        other.waited.append(self.name)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("use_memory")
    with place(folder):
        yield folder


@pytest.fixture
def model(base: Path) -> Any:
    import comfy.model_management as mm
    import comfy.sd

    mm.unload_all_models()
    file = base / "models" / "checkpoints" / "tiny.safetensors"
    return comfy.sd.load_checkpoint_guess_config(str(file), output_vae=False, output_clip=False)[0]


@pytest.fixture
def managed(base: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes comfy.model_management speak of a manager of devices that are none."""
    import limner.compat.homes.comfy_model_management as home

    def make(card: Any = None, **settings: Any) -> MemoryManager:
        card = card or Locking()
        chosen = DefaultSettings(**{"pinned_memory_limit": Size.parse("1M"), **settings})
        card.manager = MemoryManager(chosen, CPU if settings.get("cpu") else FIRST, card)
        monkeypatch.setattr(home, "memory", lambda: card.manager)
        return card.manager

    return make


@pytest.mark.parametrize(
    ("flag", "state"),
    [("novram", "NO_VRAM"), ("lowvram", "LOW_VRAM"), ("normalvram", "NORMAL_VRAM"), ("highvram", "HIGH_VRAM"),
     ("gpu_only", "HIGH_VRAM")],
)  # fmt: skip
def test_the_state_is_that_of_the_flags(managed: Any, flag: str, state: str) -> None:
    import comfy.model_management as mm

    managed(**{flag: True})
    assert mm.vram_state is mm.set_vram_to is mm.VRAMState[state]


def test_the_state_of_devices_without_memory_of_their_own(managed: Any) -> None:
    import comfy.model_management as mm

    managed(Locking(unified=True))
    assert mm.vram_state is mm.VRAMState.SHARED
    assert mm.set_vram_to is mm.VRAMState.NORMAL_VRAM
    managed(cpu=True)
    assert mm.vram_state is mm.VRAMState.DISABLED


@pytest.mark.parametrize(
    ("flag", "offloads", "text"),
    [("normalvram", (CPU, CPU, CPU), FIRST), ("highvram", (FIRST, CPU, CPU), FIRST),
     ("gpu_only", (FIRST, FIRST, FIRST), FIRST), ("lowvram", (CPU, CPU, CPU), CPU)],
)  # fmt: skip
def test_where_networks_run_and_wait_follows_the_flags(managed: Any, flag: str, offloads: Any, text: Any) -> None:
    import comfy.model_management as mm

    managed(**{flag: True})
    assert (mm.unet_offload_device(), mm.text_encoder_offload_device(), mm.vae_offload_device()) == offloads
    assert mm.text_encoder_device() == text
    assert mm.get_total_memory() == 8 << 30


def test_flags_are_read_when_they_are_asked_for(managed: Any) -> None:
    import comfy.model_management as mm

    managed(disable_smart_memory=True, force_fp32=True)
    assert mm.DISABLE_SMART_MEMORY is mm.FORCE_FP32 is True
    managed()
    assert mm.DISABLE_SMART_MEMORY is mm.FORCE_FP32 is False


def test_what_a_pack_reserves_is_left_to_others(managed: Any) -> None:
    import comfy.model_management as mm

    manager = managed(reserve_vram=1.0)
    assert mm.EXTRA_RESERVED_VRAM == mm.extra_reserved_memory() == 1 << 30
    mm.EXTRA_RESERVED_VRAM = 3 << 30
    assert mm.EXTRA_RESERVED_VRAM == mm.extra_reserved_memory() == 3 << 30
    assert manager.free_memory() == 5 << 30
    del mm.EXTRA_RESERVED_VRAM
    assert mm.EXTRA_RESERVED_VRAM == 1 << 30
    assert manager.free_memory() == 7 << 30


def test_s7_pinned_memory_is_a_live_registry(managed: Any) -> None:
    import comfy.model_management as mm

    managed()
    weight = nn.Parameter(torch.zeros(256), requires_grad=False)
    assert mm.MAX_PINNED_MEMORY == 1 << 20
    assert mm.pin_memory(weight)
    assert {weight.data_ptr(): 1024} == mm.PINNED_MEMORY
    assert mm.TOTAL_PINNED_MEMORY == 1024
    assert not mm.pin_memory(weight)
    assert not mm.unpin_memory(nn.Parameter(torch.zeros(256), requires_grad=False))
    assert mm.unpin_memory(weight)
    assert mm.PINNED_MEMORY == {}
    assert mm.TOTAL_PINNED_MEMORY == 0


def test_a_quantized_weight_is_pinned_in_its_parts(managed: Any) -> None:
    import comfy.model_management as mm
    from comfy.quant_ops import QuantizedTensor

    managed()
    weight = QuantizedTensor.from_float(torch.randn(16, 16), "TensorCoreFP8Layout")
    assert mm.pin_memory(weight)
    assert weight.inner_tensors()
    assert sum(mm.PINNED_MEMORY.values()) == sum(one.nbytes for one in weight.inner_tensors().values())
    assert mm.unpin_memory(weight)
    assert mm.TOTAL_PINNED_MEMORY == 0


@pytest.mark.parametrize("card", [Card(), Locking()])
def test_nothing_is_pinned_where_nothing_locks_or_it_is_switched_off(managed: Any, card: Any) -> None:
    import comfy.model_management as mm

    managed(card, disable_pinned_memory=True)
    assert mm.pin_memory(nn.Parameter(torch.zeros(4))) is mm.unpin_memory(nn.Parameter(torch.zeros(4))) is False
    assert (mm.MAX_PINNED_MEMORY, mm.TOTAL_PINNED_MEMORY, mm.PINNED_MEMORY) == (-1, 0, {})


def test_the_stream_of_copies_is_the_one_that_weights_go_on(managed: Any) -> None:
    import comfy.model_management as mm

    copies = Native("copies")
    managed(Locking(copies=copies))
    assert mm.get_offload_stream(FIRST) is copies
    assert {FIRST: [copies]} == mm.STREAMS
    assert mm.current_stream(FIRST).name == "computing"
    mm.sync_stream(FIRST, copies)
    assert copies.waited == ["computing"]
    managed(Locking(copies=copies), disable_async_offload=True)
    assert mm.get_offload_stream(FIRST) is mm.current_stream(FIRST) is None
    assert mm.STREAMS == {}
    mm.sync_stream(FIRST, None)


# a model that is partly there


@pytest.fixture
def there(model: Any) -> Any:
    """That model with weights in bfloat16, which are copies, not views of the file."""
    import comfy.model_management as mm

    model.weight_dtype = torch.bfloat16
    mm.load_models_gpu([model])
    yield model
    mm.unload_all_models()


def test_a_model_is_unloaded_in_part_and_loaded_again(there: Any) -> None:
    import comfy.model_management as mm

    (shown,) = [one for one in mm.current_loaded_models if one.model.is_clone(there)]
    whole = shown.model_memory()
    assert (shown.model_loaded_memory(), shown.model_offloaded_memory()) == (whole, 0)
    assert shown.model_unload(whole // 4) is False
    assert whole // 2 < shown.model_loaded_memory() <= whole - whole // 4
    assert shown.model_offloaded_memory() == there.size - there.loaded_size()
    assert there.model.model_loaded_weight_memory == there.loaded_size()
    gone = shown.model_offloaded_memory()
    assert mm.offloaded_memory([shown], shown.device) == gone
    mm.use_more_memory(1e9, [shown], shown.device)
    assert shown.model_offloaded_memory() == 0
    assert shown.model_unload() is True
    assert shown.model_loaded_memory() == 0
    assert not shown.should_reload_model()
    shown.model_load()
    assert shown.model_loaded_memory() == whole


def test_s14_a_negative_budget_unloads_and_says_so(there: Any) -> None:
    whole = there.loaded_size()
    changed = there.partially_load(there.load_device, -(whole // 3))
    assert changed <= -(whole // 3)
    assert there.loaded_size() == whole + changed


def test_s16_patches_come_before_a_negative_budget(there: Any) -> None:
    name = "diffusion_model.out.2.weight"
    other = there.clone()
    other.add_patches({name: ("diff", (torch.ones(4, 8, 3, 3),))})
    other.partially_load(other.load_device, -other.size)
    assert other.lowvram_patch_counter() == other.model.lowvram_patch_counter == 1
    with other.loaded():
        assert other.lowvram_patch_counter() == 0  # there is room: it is made once


def test_models_that_were_unloaded_are_named(there: Any) -> None:
    import comfy.model_management as mm

    gone = mm.free_memory(1e30, there.load_device)
    assert any(one.model.is_clone(there) for one in gone)
    assert mm.free_memory(1e30, there.load_device) == []


def test_the_least_that_a_computation_needs_is_handed_on(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    import comfy.model_management as mm

    asked: list[Any] = []
    real = MemoryManager.loaded

    def loaded(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append((kwargs["working"], kwargs["least"]))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MemoryManager, "loaded", loaded)
    mm.load_models_gpu([model], memory_required=5000, minimum_memory_required=2000)
    mm.load_models_gpu([model], memory_required=5000)
    mm.load_models_gpu([model], memory_required=5000, force_full_load=True)
    assert asked == [(5000, 2000), (5000, None), (0, None)]


# a pack's own network


@pytest.fixture
def own(base: Path) -> Any:
    import comfy.model_patcher

    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)).requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(network, torch.device("meta"), CPU)


def test_room_is_made_for_a_packs_network(managed: Any, own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    manager = managed()
    monkeypatch.setattr(loading, "newest", lambda: manager)
    monkeypatch.setattr(manager, "free", lambda nbytes, device: asked.append((nbytes, device)))
    own.patch_model(torch.device("meta"))
    assert asked == [(own.model_size(), torch.device("meta"))]
    assert own.current_loaded_device() == torch.device("meta")


def test_its_weights_are_pinned_and_let_go_and_clones_know(
    managed: Any, own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management as mm

    manager = managed()
    monkeypatch.setattr(loading, "newest", lambda: manager)
    other = own.clone()
    own.pin_weight_to_device("0.weight")
    own.pin_weight_to_device("0.weight")
    own.pin_weight_to_device("1.bias")
    assert own.pinned == other.pinned == {"0.weight", "1.bias"}
    assert mm.TOTAL_PINNED_MEMORY == 8 * 8 * 4 + 4 * 4
    other.unpin_weight("1.bias")
    other.unpin_weight("1.bias")
    assert own.pinned == {"0.weight"}
    own.load(CPU)  # where it computes nothing waits
    assert own.pinned == set()
    assert mm.TOTAL_PINNED_MEMORY == 0


def test_a_layer_whose_weights_are_streamed_gives_them_patched(there: Any) -> None:
    import comfy.ops

    name = "diffusion_model.time_embed.0.weight"
    other = there.clone()
    other.add_patches({name: ("diff", (torch.ones(32, 8),))})
    with other.loaded() as network:
        layer = network.time_embed[0]
        want, bias = (one.float() for one in comfy.ops.cast_bias_weight(layer, torch.zeros(1, 8)))
        assert layer.streamed is None
        other.memory.shrink(other.source, other.size)
        assert layer.streamed is not None
        found = comfy.ops.cast_bias_weight(layer, torch.zeros(1, 8))
        assert torch.equal(found[0], want)
        assert torch.equal(found[1], bias)
        assert found[0].dtype == torch.float32
        *_, stream = comfy.ops.cast_bias_weight(layer, torch.zeros(1, 8), offloadable=True)
        comfy.ops.uncast_bias_weight(layer, *found, stream)
