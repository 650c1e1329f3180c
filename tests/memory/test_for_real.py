"""What `benchmarks.full_size` and `benchmarks.memory` prove of models at full size, with small ones: real servers, whose
memory is looked at from outside."""

import json
import time
from math import prod

import pytest
import torch

from benchmarks._full_size import Watch, private, prompt, resident
from limner.models.unet import UNet, UNetConfig
from limner.weights import save
from tests.models.checkpoints import checkpoint, metadata, tensors
from tests.models.make import TINY_UNET
from tests.serving import serving

MB = 1_000_000
NAMES = ("first.safetensors", "second.safetensors")
UNET = "model.diffusion_model."
TINY, LARGE = {"context_dim": 8}, {"context_dim": 8, "model_channels": 256}
"""The large UNet takes some hundred megabytes in float32: much beside what a server takes by itself."""
FLAGS = ("--cpu", "--force-fp32")
FREE = {"unload_models": True, "free_memory": True}


def shapes():
    """The tensors of the large UNet."""
    with torch.device("meta"):
        network = UNet(UNetConfig(**{**TINY_UNET.__dict__, **LARGE}))
    return {UNET + name: tuple(value.shape) for name, value in network.state_dict().items()}


LARGEST = 4 * sum(prod(shape) for shape in shapes().values())
"""Bytes of the large UNet as it is computed with."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with two large checkpoints and a tiny one in float16, and three LoRAs for the large ones."""
    base = tmp_path_factory.mktemp("for_real")
    for kind in ("checkpoints", "loras"):
        (base / "models" / kind).mkdir(parents=True)
    small = {name: value.half() for name, value in tensors(**TINY).items()}
    checkpoint(base / "models/checkpoints", small)
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).half() / 50
    for number, name in enumerate(NAMES):
        large = {
            key: noise.roll(number).repeat(1 + prod(shape) // len(noise))[: prod(shape)].reshape(shape)
            for key, shape in shapes().items()
        }
        save(base / "models/checkpoints" / name, {**small, **large}, metadata())
    for number in range(3):
        lora = {}
        for key, shape in shapes().items():
            if key.endswith("to_q.weight"):
                short = "diffusion_model." + key.removeprefix(UNET).removesuffix(".weight")
                lora[short + ".lora_up.weight"] = torch.full((shape[0], 4), number + 1.0) / 100
                lora[short + ".lora_down.weight"] = torch.ones(4, shape[1]) / 100
        assert lora
        save(base / "models/loras" / f"{number}.safetensors", lora)
    return base


@pytest.fixture(scope="module")
def server(base):
    """One without a cap that has run a tiny model."""
    with serving(base, *FLAGS) as found:
        for number in range(2):
            run(found, "tiny.safetensors", None, number)
        yield found


def run(server, name, lora, seed):
    answer = server.post("/prompt?wait=true", {"prompt": prompt(name, lora, seed, 32, f"a cat {seed}")})
    assert answer["status"]["status_str"] == "success", json.dumps(answer["status"]["messages"])[-600:]


def alternate(server, count):
    """Two checkpoints and three LoRAs in turn; the highest private memory meanwhile."""
    with Watch(lambda: private(server.process.pid)) as watch:
        for number in range(count):
            run(server, NAMES[number % 2], f"{number % 3}.safetensors", number)
    return watch.peak


def settled(measure, bound, seconds=3.0):
    """What is measured, once it is under a bound or some time has passed: threads end, and give back theirs."""
    deadline = time.monotonic() + seconds
    while measure() > bound and time.monotonic() < deadline:
        time.sleep(0.05)
    return measure()


def test_sixty_runs_leave_memory_flat(server):
    taken = []
    for number in range(80):
        run(server, "tiny.safetensors", None, number)
        taken.append(resident(server.process.pid))
    assert taken[-1] < 1.02 * taken[19], [one // MB for one in taken[::10]]


def test_memory_comes_back_when_it_is_asked_for(server):
    pid = server.process.pid
    server.post("/free", FREE)
    idle = resident(pid)
    alternate(server, 2)
    assert resident(pid) > idle + LARGEST
    server.post("/free", FREE)
    assert settled(lambda: resident(pid), idle + 50 * MB) < idle + 50 * MB


def test_a_cap_holds_for_models_that_take_turns(base, server):
    server.post("/free", FREE)
    alone = private(server.process.pid)
    cap = alone + int(1.25 * LARGEST)
    assert alternate(server, 2) > cap  # or the cap would not be needed
    with serving(base, *FLAGS, "--max-ram", f"{cap // 1024}K", "--user-directory", str(base / "other")) as capped:
        peak = alternate(capped, 4)
    assert alone + LARGEST / 2 < peak < cap, f"{alone // MB} MB alone, {peak // MB} of {cap // MB} MB"
