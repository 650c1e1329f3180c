"""The door to devices: which one networks run on, and what it says of its memory."""

import pytest
import torch

from limner.errors import BadInput
from limner.memory import backends, devices
from limner.memory.devices import capabilities, compute_device, free_memory, has_native_bf16, total_memory
from limner.memory.settings import DefaultSettings

CPU = torch.device("cpu")


def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Tile {device.index}")


def test_the_cpu_flag_wins(monkeypatch):
    two_gpus(monkeypatch)
    assert compute_device(DefaultSettings(cpu=True)).type == "cpu"


def test_without_an_accelerator_networks_run_on_the_cpu(monkeypatch):
    monkeypatch.setattr(backends, "accelerators", list)
    assert compute_device(DefaultSettings(default_device=1)) == CPU


def test_of_several_devices_the_first_is_chosen_unless_another_is_asked_for(monkeypatch):
    two_gpus(monkeypatch)
    assert compute_device(DefaultSettings()) == torch.device("cuda", 0)
    assert compute_device(DefaultSettings(default_device=1)) == torch.device("cuda", 1)


def test_a_number_that_no_device_has_is_refused_with_those_that_there_are(monkeypatch):
    two_gpus(monkeypatch)
    with pytest.raises(BadInput, match=r"default_device is 2.*0 \(Tile 0\), 1 \(Tile 1\)"):
        compute_device(DefaultSettings(default_device=2))


def test_free_memory_is_some_of_the_total():
    assert 0 < free_memory(CPU) <= total_memory(CPU)


def test_a_containers_limit_is_the_total_and_bounds_what_is_free(monkeypatch):
    monkeypatch.setattr("limner.memory.cgroups.limit", lambda: 3000)
    monkeypatch.setattr("limner.memory.cgroups.available", lambda: 2000)
    assert (total_memory(CPU), free_memory(CPU)) == (3000, 2000)


def test_what_a_device_says_comes_from_its_kind():
    assert capabilities(CPU) == devices.Capabilities("cpu", bf16=has_native_bf16(), fp16=False)
    with pytest.raises(BadInput, match="`meta` are not supported"):
        capabilities(torch.device("meta"))
