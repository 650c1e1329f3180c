"""One model in every form gives one picture: patched or not, its weights here or there, in 32, 16 or 8 bits.

Where a weight is must not change anything: within a dtype of storage and a kind of device, pictures are equal bit for
bit. Fewer bits of storage change them within `TOLERANCES`.
"""

import json

import pytest
import torch

from limner.memory import policy
from limner.weights import save
from tests.memory.matrix import FAMILIES, PATCHES, WORKING, at_rest, device, every_second, pictures

STORAGE = (torch.float32, torch.bfloat16, torch.float8_e4m3fn)
TOLERANCES = {torch.float32: 0.0, torch.bfloat16: 0.02, torch.float8_e4m3fn: 0.2}
"""Of the largest difference, in standard deviations of the picture; measured: 0.011 and 0.123 at most."""
PLACES = ("partly", "streamed", "pinned")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matrix")
    for name, family in FAMILIES.items():
        tensors = {key: value.contiguous() for key, value in family.part.tensors().items()}
        save(folder / f"{name}.safetensors", tensors, {"config": json.dumps({"unet": family.part.config})})
    return folder


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("storage", STORAGE, ids=str)
def test_fewer_bits_of_storage_change_a_picture_within_their_tolerance(files, name, storage):
    plain, found = (
        at_rest(files / f"{name}.safetensors", name, one, False).pictures for one in (torch.float32, storage)
    )
    for patches in PATCHES:
        difference = (found[patches] - plain[patches]).abs().max() / plain[patches].std()
        assert difference <= TOLERANCES[storage], patches
        assert bool(difference) == (storage != torch.float32), patches


@pytest.mark.parametrize("name", FAMILIES)
def test_patches_change_a_picture(files, name):
    found = at_rest(files / f"{name}.safetensors", name, torch.float32, False).pictures
    for one in PATCHES[1:]:
        assert not torch.allclose(found["plain"], found[one], atol=1e-2), one
    assert not torch.allclose(found["one LoRA"], found["two LoRAs"], atol=1e-2)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("storage", STORAGE, ids=str)
def test_an_accelerator_gives_the_cpus_picture(files, name, storage):
    here, there = (at_rest(files / f"{name}.safetensors", name, storage, double).pictures for double in (False, True))
    for patches in PATCHES:
        assert torch.allclose(here[patches], there[patches], atol=1e-4, rtol=1e-4), patches


@pytest.mark.parametrize("double", [False, True], ids=["no stream", "two buffers"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("storage", STORAGE, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_where_weights_are_does_not_change_the_picture(files, name, storage, place, double, monkeypatch):
    want, nbytes = at_rest(files / f"{name}.safetensors", name, storage, double)
    few = place != "partly"
    if not few:
        monkeypatch.setattr(policy, "grown", every_second)
    memory = WORKING * (1 + double) if few else 1 << 40
    with device(double, memory, novram=few, disable_pinned_memory=place != "pinned") as manager:
        found, model = pictures(manager, files / f"{name}.safetensors", name, storage)
        held = manager.holding(model.source)
    assert [one for one in PATCHES if not torch.equal(found[one], want[one])] == []
    assert held is not None
    assert held.resident + held.streamed == nbytes
    if nbytes:  # float32 on the CPU is a view of the file, wherever it counts to be
        assert held.streamed > (0.9 if few else 0.2) * nbytes
        assert (held.resident > 0.2 * nbytes) == (not few)
        assert bool(held.pinned) == (place == "pinned")
