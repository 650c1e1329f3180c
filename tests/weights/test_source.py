import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from limner.errors import BadInput
from limner.memory import backends
from limner.memory.streaming import Streamer
from limner.memory.units import Target
from limner.weights import CheckpointHeader, NetworkSource, Patch, Patches, save
from limner.weights.adapters.plain import Difference

CPU = torch.device("cpu")


def target(dtype=torch.float32):
    return Target(CPU, dtype, dtype, False, Streamer(backends.of(CPU), CPU))


def build():
    return nn.Sequential(nn.Linear(4, 3), nn.Conv2d(3, 2, 3))


def source(tensors=None, patches=()):
    header = CheckpointHeader.of(build().state_dict() if tensors is None else tensors)
    return NetworkSource("network", build, header.tensors, header.identity, "net.", Patches(tuple(patches)))


def patch(key, value, name):
    return Patch(key, Difference(name, value))


def test_a_tensor_that_needs_no_change_stays_a_view_of_the_file(tmp_path):
    save(tmp_path / "x.safetensors", build().state_dict())
    header = CheckpointHeader.read(tmp_path / "x.safetensors")
    made = NetworkSource("network", build, header.tensors, header.identity)
    assert made.load(CPU, None)[0].weight.data_ptr() == header.tensor("0.weight").data_ptr()
    assert made.load(CPU, torch.float16)[0].weight.dtype == torch.float16


def test_convolutions_can_be_kept_with_their_channels_last():
    network = source().load(CPU, torch.float32, channels_last=True)
    assert network[1].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_tensor_of_another_shape_is_named():
    tensors = build().state_dict() | {"0.weight": torch.zeros(4, 3)}
    with pytest.raises(BadInput, match=r"0\.weight in the shape \[4, 3\] instead of \[3, 4\]"):
        source(tensors).load(CPU, torch.float32)


def test_a_missing_tensor_is_named():
    tensors = build().state_dict()
    del tensors["1.bias"]
    with pytest.raises(BadInput, match=r"lacks 1 of 4 tensors: 1\.bias"):
        source(tensors).load(CPU, torch.float32)


def test_only_what_differs_is_patched_again():
    weight, bias = patch("net.0.weight", torch.ones(3, 4), "w"), patch("net.1.bias", torch.ones(2), "b")
    made = source(patches=[weight])
    placed = made.place(target())
    placed.bring(range(len(placed.units)))
    network, before = placed.network, dict(placed.network.named_parameters())
    assert placed.repatch(Patches((weight, bias))) == 1
    assert network[0].weight is before["0.weight"]
    assert torch.allclose(network[1].bias, before["1.bias"] + 1)


def test_patches_are_computed_in_float32():
    tiny = 2.0**-12  # vanishes when it is added to 1 in bfloat16
    tensors = build().state_dict() | {"0.weight": torch.ones(3, 4, dtype=torch.bfloat16)}
    patches = [patch("net.0.weight", torch.full((3, 4), tiny), str(n)) for n in range(16)]
    assert source(tensors, patches).load(CPU, torch.float32)[0].weight[0, 0] == 1 + 16 * tiny


def test_the_digest_knows_strength_and_order():
    one, two = patch("k", torch.ones(1), "one"), patch("k", torch.ones(1), "two")
    strong = Patch("k", one.adapter, strength=2.0)
    digests = {Patches(entries).digest for entries in ((one,), (strong,), (one, two), (two, one), ())}
    assert len(digests) == 5
    assert (Patches((one,)) + Patches((two,))).digest == Patches((one, two)).digest


PEAK = """
import json, sys, torch
from pathlib import Path
from torch import nn
from limner.weights import CheckpointHeader, NetworkSource

def value(name):
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if name in line).split()[1]) << 10

torch.zeros(1000).half().bfloat16()
header = CheckpointHeader.read(sys.argv[1])
source = NetworkSource("n", lambda: nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(16))),
                       header.tensors, "x")
before = value("VmHWM")
network = source.load(torch.device("cpu"), torch.bfloat16)
print(json.dumps([value("VmHWM") - before, source.nbytes(torch.bfloat16)]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_loading_takes_little_more_than_the_result(tmp_path):
    save(tmp_path / "x.safetensors", {f"{n}.weight": torch.ones(2048, 2048).half() for n in range(16)})
    command = [sys.executable, "-c", PEAK, str(tmp_path / "x.safetensors")]
    reply = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, resident = json.loads(reply.stdout)
    assert peak < 1.3 * resident
