"""Weights that are streamed: made on the copy stream, waited for once a module, and never other numbers than at rest."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from limner.memory.pinned import PinnedMemory
from limner.memory.streaming import Streamer
from limner.memory.units import Target
from limner.weights import CheckpointHeader, NetworkSource, Patch, Patches, ops
from limner.weights.adapters.lora import LoRA
from limner.weights.adapters.plain import Difference
from limner.weights.lazy import LazyTensor
from tests.memory.double import FakeAccelerator

CPU = torch.device("cpu")
DEPTH, WIDTH = 40, 8
NORMS = range(3, DEPTH, 8)


class Network(nn.Module):
    """Layers that are used in any order, `order`; every eighth is a norm, the others are linear with a bias."""

    def __init__(self, depth=DEPTH):
        super().__init__()
        self.layers = nn.ModuleList(
            ops.LayerNorm(WIDTH) if place in NORMS else ops.Linear(WIDTH, WIDTH) for place in range(depth)
        )
        self.order = list(range(depth))

    def forward(self, x):
        for place in self.order:
            x = torch.tanh(self.layers[place](x))
        return x


STRAIGHT = list(range(DEPTH))
BENT = [
    *reversed(range(20)),
    5,
    5,
    *range(30, DEPTH),
]  # another order; one used again, one at once again, ten not at all


def numbers(build=Network, dtype=torch.float32):
    torch.manual_seed(1)
    values = {name: torch.randn(value.shape) / 3 for name, value in build().state_dict().items()}
    return {name: value.to(dtype) if value.ndim > 1 else value for name, value in values.items()}


def a_source(build=Network, tensors=None, patches=()):
    header = CheckpointHeader.of(numbers(build) if tensors is None else tensors)
    return NetworkSource("network", build, header.tensors, header.identity, "net.", Patches(tuple(patches)))


def some_patches(strength=1.0):
    """A LoRA of every third layer that is linear, and a change of two biases."""
    torch.manual_seed(2)
    for place in range(0, DEPTH, 3):
        up, down = torch.randn(WIDTH, 2) / 3, torch.randn(2, WIDTH) / 3
        if place not in NORMS:
            yield Patch(f"net.layers.{place}.weight", LoRA(f"lora {place}", up, down), strength)
    for place in (4, 6):
        yield Patch(f"net.layers.{place}.bias", Difference(f"bias {place}", torch.randn(WIDTH)), strength)


X = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(3))
PLAIN = a_source()


def placed(fake, source=PLAIN, streamer=None, dtype=None, compute=torch.float32, channels_last=False):
    streamer = streamer or Streamer(fake, fake.device)
    return source.place(Target(fake.device, dtype, compute, channels_last, streamer))


def passes(fake, network, orders=(STRAIGHT,), x=X):
    x = x.to(fake.device)
    for order in orders:
        network.order = order
        x = network(x)
    return x


def at_rest(orders=(STRAIGHT,), source=PLAIN, x=X, **target):
    """The same with all weights on the device."""
    with FakeAccelerator() as fake:
        one = placed(fake, source, **target)
        one.bring(range(len(one.units)))
        found = passes(fake, one.network, orders, x).cpu()
        assert all(entry.stream == "compute" for entry in fake.log)
        return found


def streams(fake):
    """What was enqueued on copy streams and on that of the computation."""
    copies = [entry for entry in fake.log if entry.stream != "compute"]
    return copies, [entry for entry in fake.log if entry.stream == "compute"]


def copied(fake, stream="copy1"):
    return [entry for entry in fake.log if entry.stream == stream and entry.op in ("copy_", "_to_copy")]


# Equal in every interleaving


def test_s13_streamed_weights_give_the_same_numbers_in_two_hundred_interleavings():
    """In the network's order, which is what is guessed, and in another."""
    orders = (STRAIGHT, BENT)
    wants = [at_rest([order]) for order in orders]
    network = PLAIN.load(CPU, torch.float32)
    for order, want in zip(orders, wants, strict=True):
        network.order = order
        assert torch.equal(network(X), want)
    for seed in range(200):
        order, want = orders[seed % 2], wants[seed % 2]
        with FakeAccelerator(seed) as fake:
            found = passes(fake, placed(fake).network, [order])
            assert torch.equal(found.cpu(), want), seed
            assert not fake.races


@pytest.mark.parametrize("count", [1, 2, 3])
def test_s13_any_number_of_buffers_gives_the_same_numbers(count):
    orders = (STRAIGHT, BENT, BENT, STRAIGHT)
    want = at_rest(orders)
    for seed in range(6):
        with FakeAccelerator(seed) as fake:
            found = passes(fake, placed(fake, streamer=Streamer(fake, fake.device, count)).network, orders)
            assert torch.equal(found.cpu(), want), seed
            assert not fake.races
            assert bool(streams(fake)[0]) == (count > 1)


@pytest.mark.parametrize("weights", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16])
def test_s13_weights_stored_in_fewer_bits_are_the_same_numbers_streamed(weights):
    source = a_source(tensors=numbers(dtype=weights))
    want = at_rest((STRAIGHT, BENT), source)
    assert want.isfinite().all()
    for seed in range(8):
        with FakeAccelerator(seed) as fake:
            found = passes(fake, placed(fake, source).network, (STRAIGHT, BENT))
            assert torch.equal(found.cpu(), want), seed
            assert not fake.races
            assert {entry.op for entry in streams(fake)[1]}.isdisjoint({"copy_"})


def test_s13_fifty_runs_of_weights_in_eight_bits_are_the_same_picture():
    """What raced: such weights, little to compute, and a slow bus gave black pictures."""
    source = a_source(tensors=numbers(dtype=torch.float8_e4m3fn), patches=some_patches())
    want = at_rest(source=source)
    for seed in range(50):
        with FakeAccelerator(seed) as fake:
            assert torch.equal(passes(fake, placed(fake, source).network).cpu(), want), seed
            assert not fake.races


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_s13_patches_of_streamed_weights_and_biases_give_what_they_give_at_rest(dtype):
    source = a_source(patches=some_patches())
    want = at_rest((STRAIGHT, BENT), source, dtype=dtype)
    assert not torch.equal(want, at_rest((STRAIGHT, BENT), dtype=dtype))
    for seed in range(8):
        with FakeAccelerator(seed) as fake:
            found = passes(fake, placed(fake, source, dtype=dtype).network, (STRAIGHT, BENT))
            assert torch.equal(found.cpu(), want), seed
            assert not fake.races


@pytest.mark.parametrize("every", [1, 2, 5])
def test_s13_a_network_that_is_partly_on_the_device_gives_the_same_numbers(every):
    source = a_source(patches=some_patches())
    first, want = at_rest(source=source), at_rest((STRAIGHT, BENT), source)
    for seed in range(8):
        with FakeAccelerator(seed) as fake:
            one = placed(fake, source)
            there = range(0, len(one.units), every)
            one.bring(there)
            waits = fake.compute.waits
            assert torch.equal(passes(fake, one.network).cpu(), first), seed
            assert fake.compute.waits - waits == len(one.units) - len(there)
            assert torch.equal(passes(fake, one.network, (STRAIGHT, BENT)).cpu(), want), seed
            assert not fake.races


def test_s13_units_that_come_and_go_and_patches_that_change_between_passes_leave_no_old_numbers():
    plain, weak, strong = (a_source(patches=some_patches(s) if s else ()) for s in (0, 0.5, 1.0))
    want = [at_rest(source=source) for source in (plain, strong, weak, plain)]
    for seed in range(6):
        with FakeAccelerator(seed) as fake:
            one = placed(fake, plain)
            found = [passes(fake, one.network)]
            one.bring(range(0, DEPTH, 2))
            one.repatch(strong.patches)
            found.append(passes(fake, one.network))
            one.drop(range(0, DEPTH, 4))
            one.repatch(weak.patches)
            found.append(passes(fake, one.network))
            one.bring(range(DEPTH))
            one.repatch(plain.patches)
            found.append(passes(fake, one.network))
            assert [torch.equal(a.cpu(), b) for a, b in zip(found, want, strict=True)] == [True] * 4, seed
            assert not fake.races


def test_s13_two_networks_share_the_buffers_of_a_device():
    other = a_source(tensors={name: value.flip(0) for name, value in numbers().items()})
    want = [at_rest(), at_rest(source=other)]
    for seed in range(6):
        with FakeAccelerator(seed) as fake:
            streamer = Streamer(fake, fake.device)
            first, second = placed(fake, streamer=streamer), placed(fake, other, streamer=streamer)
            found = [passes(fake, one.network) for one in (first, second, first, second)]
            assert [torch.equal(a.cpu(), b) for a, b in zip(found, want * 2, strict=True)] == [True] * 4, seed
            first.close()
            assert torch.equal(passes(fake, second.network).cpu(), want[1])
            assert not fake.races


def test_s13_a_module_that_needs_larger_buffers_is_met_in_the_middle_of_a_pass():
    def build():
        sizes = [8, 8, 64, 64, 8, 300, 8, 8]
        return nn.Sequential(*(ops.Linear(a, b) for a, b in pairwise(sizes)))

    source = a_source(build)
    want = at_rest((STRAIGHT, STRAIGHT), source)
    for seed in range(8):
        with FakeAccelerator(seed) as fake:
            found = passes(fake, placed(fake, source).network, (STRAIGHT, STRAIGHT))
            assert torch.equal(found.cpu(), want), seed
            assert not fake.races


def test_s13_a_buffer_is_not_filled_while_what_its_memory_was_before_is_still_computed_with():
    """An allocator hands out memory for the stream that gave it back; another stream has to wait for that one."""
    want = at_rest()
    for seed in range(8):
        with FakeAccelerator(seed) as fake:
            one = placed(fake)
            x = torch.ones(one.network.layers[0].streamed.nbytes(torch.float32) // 4).to(fake.device)
            y = (x * 2) + (x * 3)  # two passing results of the size of a buffer, used late
            found = passes(fake, one.network)
            assert (y.cpu() == 5).all(), seed
            assert torch.equal(found.cpu(), want), seed
            assert not fake.races


def test_s13_buffers_are_not_let_go_while_they_are_filled():
    """A pass ends with a copy for the next one, into memory that the computation would be given again."""
    for seed in range(8):
        with FakeAccelerator(seed) as fake:
            streamer = Streamer(fake, fake.device)
            passes(fake, placed(fake, streamer=streamer).network)
            size = streamer.nbytes // 2 // 4
            streamer.release()
            again = [torch.full((size,), 7.0, device=fake.device) for _ in range(2)]
            assert all((one.cpu() == 7).all() for one in again), seed
            assert not fake.races


def test_s13_convolutions_with_their_channels_last_are_the_same_numbers_streamed():
    def build():
        convolutions = (ops.Conv2d(4, 4, 3, padding=1), ops.GroupNorm(2, 4), ops.Conv2d(4, 4, 1, bias=False))
        return nn.Sequential(*convolutions, nn.SiLU(), ops.Conv2d(4, 4, 3, padding=1))

    source = a_source(build)
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(5))
    for channels_last in (False, True):
        want = at_rest((STRAIGHT, STRAIGHT), source, x, channels_last=channels_last)
        for seed in range(6):
            with FakeAccelerator(seed) as fake:
                network = placed(fake, source, channels_last=channels_last).network
                assert torch.equal(passes(fake, network, (STRAIGHT, STRAIGHT), x).cpu(), want), seed
                assert not fake.races


def test_s13_rows_of_a_table_are_the_same_numbers_streamed():
    def build():
        return nn.Sequential(ops.Embedding(10, WIDTH), ops.Linear(WIDTH, WIDTH))

    source = a_source(build, patches=[Patch("net.0.weight", Difference("d", torch.ones(10, WIDTH)))])
    ids = torch.tensor([[1, 9, 3]])
    want = source.load(CPU, torch.float32)(ids)
    for seed in range(6):
        with FakeAccelerator(seed) as fake:
            assert torch.equal(placed(fake, source).network(ids.to(fake.device)).cpu(), want)
            assert not fake.races


def test_s13_weights_that_wait_in_locked_memory_are_the_same_numbers_and_are_not_let_go_under_a_copy():
    source = a_source(patches=some_patches())
    want, plain = at_rest((STRAIGHT, BENT), source), at_rest()
    for seed in range(6):
        with FakeAccelerator(seed) as fake:
            one = placed(fake, source)
            memory = PinnedMemory(fake.pages, 1 << 20)
            one.pin(memory)
            assert one.pinned == memory.total == fake.pages.nbytes > 0
            assert torch.equal(passes(fake, one.network, (STRAIGHT, BENT)).cpu(), want), seed
            passes(fake, one.network)
            one.repatch(Patches())
            found = passes(fake, one.network)
            one.bring(range(0, DEPTH, 2))
            assert torch.equal(found.cpu(), plain), seed
            passes(fake, one.network)
            one.close()
            assert fake.pages.nbytes == 0
            assert not fake.races


# Where and when


def test_s13_only_what_has_to_be_made_is_made_and_on_the_copy_stream():
    with FakeAccelerator() as fake:
        passes(fake, placed(fake).network)
        copies, _ = streams(fake)
        assert {entry.op for entry in copies} == {"wait", "copy_", "record"}
        assert len(copied(fake)) == 2 * (DEPTH + 1)  # each weight and bias once, and the next pass's first
        assert not copied(fake, "compute")[1:]  # the input
    with FakeAccelerator() as fake:
        source = a_source(tensors=numbers(dtype=torch.float16))
        passes(fake, placed(fake, source).network)
        linear = DEPTH - len(NORMS)
        casts = [entry for entry in copied(fake) if entry.dtype == torch.float32 and len(entry.shape) == 2]
        assert len(casts) == linear + 1
        assert len(copied(fake)) == 2 * (DEPTH + 1) + linear + 1
        assert not copied(fake, "compute")[1:]


def test_s13_patches_and_biases_are_made_on_the_copy_stream():
    with FakeAccelerator() as fake:
        source = a_source(patches=some_patches())
        passes(fake, placed(fake, source).network)
        copies, compute = streams(fake)
        loras = len([place for place in range(0, DEPTH, 3) if place not in NORMS])
        again = 1  # the first layer has one, and is brought for the next pass
        assert [entry.op for entry in copies].count("mm") == loras + again
        assert {entry.op for entry in compute if entry.shape} == {"_to_copy", "addmm", "tanh", "native_layer_norm"}
        assert [entry.op for entry in compute].count("_to_copy") == 1  # the input


def test_s13_a_modules_weights_are_enqueued_before_the_wait_for_them_and_its_operation_after():
    """Every layer has a width of its own, so that the log tells them apart."""

    def build():
        return nn.Sequential(*(ops.Linear(8 + place, 9 + place) for place in range(12)))

    with FakeAccelerator() as fake:
        source = a_source(build, tensors=numbers(build, torch.float16), patches=[
            Patch(f"net.{place}.weight", Difference(f"{place}", torch.ones(9 + place, 8 + place))) for place in (2, 3)
        ])  # fmt: skip
        network = placed(fake, source).network
        x = X.to(fake.device)
        network(x)
        began = len(fake.log)
        network(x)  # each is known to come after the one before it
        log = fake.log[began:]
    waits = [at for at, entry in enumerate(log) if entry.stream == "compute" and entry.op == "wait"]
    assert len(waits) == 12
    for place, wait in enumerate(waits):
        shape, bias = (9 + place, 8 + place), (9 + place,)
        made = [at for at, entry in enumerate(log) if entry.stream == "copy1" and entry.shape in (shape, bias)]
        used = next(at for at, entry in enumerate(log) if entry.op == "addmm" and entry.shape[1] == 9 + place)
        assert wait < used
        if place:  # the first was brought at the end of the pass before
            before = [at for at in made if at < wait]
            assert len(before) >= 3
            assert waits[place - 1] < before[0]  # while the one before it computes
            assert not [at for at in made if wait < at < used]


@pytest.mark.parametrize("order", [STRAIGHT, BENT, STRAIGHT[::-1]], ids=["straight", "bent", "reversed"])
def test_s13_the_compute_stream_waits_once_a_module_and_the_host_never(order):
    used = [place for place, before in zip(order, [None, *order], strict=False) if place != before]
    with FakeAccelerator() as fake:
        network = placed(fake).network
        x = X.to(fake.device)
        blocked = fake.blocked
        for passed in range(1, 4):
            network.order = order
            x = network(x)
            assert fake.compute.waits == passed * len(used)
        assert fake.blocked == blocked
        assert fake.synchronized == 0


def test_s13_what_comes_next_is_learned_from_the_pass_before():
    """A wrong guess costs a copy that nobody needed; once an order is known there is none."""
    with FakeAccelerator() as fake:
        network = placed(fake).network
        counts = []
        for order in (STRAIGHT, STRAIGHT[::-1], STRAIGHT[::-1], STRAIGHT[::-1]):
            before = len(copied(fake))
            passes(fake, network, [order])
            counts.append((len(copied(fake)) - before) // 2)
        assert counts[1] > DEPTH
        assert counts[2:] == [DEPTH + 1, DEPTH]  # what comes after the last layer is known once there was a next pass


def test_s13_a_module_used_in_two_dtypes_is_made_for_each():
    with FakeAccelerator() as fake:
        layer = placed(fake).network.layers[0]
        x = X.to(fake.device)
        found = [layer(x), layer(x.half()), layer(x)]
        assert [one.dtype for one in found] == [torch.float32, torch.float16, torch.float32]
        assert torch.equal(found[0].cpu(), found[2].cpu())
        assert torch.allclose(found[0].cpu(), found[1].cpu().float(), atol=1e-2)
        assert not fake.races


def test_s13_nothing_is_streamed_while_a_compiler_looks_on(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with FakeAccelerator() as fake:
        found = passes(fake, placed(fake).network)
        assert not streams(fake)[0]
        assert fake.compute.waits == 0
        assert torch.equal(found.cpu(), at_rest())


def test_s13_a_device_without_copy_streams_makes_weights_in_the_order_of_the_computation():
    with FakeAccelerator(concurrent=False) as fake:
        found = passes(fake, placed(fake).network)
        assert not streams(fake)[0]
        assert torch.equal(found.cpu(), at_rest())
        assert not fake.races


# Memory and failures


def test_s13_streaming_takes_its_buffers_and_what_is_computed_with_and_no_more():
    with FakeAccelerator() as fake:
        streamer = Streamer(fake, fake.device)
        one = placed(fake, streamer=streamer)
        fake.start_peak(fake.device)
        x = passes(fake, one.network, (STRAIGHT, BENT))
        largest = max(layer.streamed.nbytes(torch.float32) for layer in one.network.layers)
        assert streamer.nbytes == 2 * largest
        assert fake.peak(fake.device) <= streamer.nbytes + 8 * x.nbytes
        streamer.release()
        assert streamer.nbytes == 0
        assert fake.used(fake.device) == x.nbytes


@pytest.mark.parametrize("fails", [1, 7, 8, 20])
def test_s13_a_weight_that_could_not_be_brought_leaves_nothing_half_made(fails):
    reads = []

    def read(value):
        reads.append(1)
        if armed and len(reads) == fails:
            raise torch.OutOfMemoryError
        return value

    armed = False
    lazy = {name: replace(LazyTensor.of(v), read=lambda v=v: read(v)) for name, v in numbers().items()}
    source = replace(PLAIN, tensors=lazy)
    with FakeAccelerator(seed=fails) as fake:
        network = placed(fake, source).network
        armed = True
        reads.clear()
        with pytest.raises(torch.OutOfMemoryError):
            passes(fake, network)
        assert torch.equal(passes(fake, network).cpu(), at_rest())
        assert not fake.races


@pytest.mark.parametrize("fails", [1, 5, 9])
def test_s13_a_patch_that_runs_out_of_memory_is_not_left_out(fails):
    source = a_source(patches=some_patches())
    with FakeAccelerator() as fake:
        one = placed(fake, source)
        passes(fake, one.network, [STRAIGHT[:1]])
        allocations = []
        allocate = fake.allocate
        fake.allocate = lambda spec: _failing(fake, allocations, fails, allocate, spec)
        with pytest.raises(torch.OutOfMemoryError):
            passes(fake, one.network)
        del fake.allocate
        assert torch.equal(passes(fake, one.network).cpu(), at_rest(source=source))


def _failing(fake, allocations, fails, allocate, spec):
    on_copies = fake.entered[-1] is not fake.compute
    allocations.extend([1] * on_copies)
    if on_copies and len(allocations) == fails:
        fake.out_of_memory = 1
    return allocate(spec)
