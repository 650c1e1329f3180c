"""The accelerator that is none finds what it is there to find: what is used too early, or written over too soon."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.memory.double import FakeAccelerator
from tests.memory.double_queues import FakeStream

WIDTH = 8
GENERATOR = torch.Generator().manual_seed(0)
WEIGHTS = [torch.randn(WIDTH, WIDTH, generator=GENERATOR) / WIDTH**0.5 for _ in range(40)]
X = torch.randn(3, WIDTH, generator=GENERATOR)


@pytest.fixture
def fake():
    with FakeAccelerator() as made:
        yield made


def layer(x, weight):
    return F.silu(x @ weight.t())


def expected():
    x = X
    for weight in WEIGHTS:
        x = layer(x, weight)
    return x


def streamed(fake, arrival=True, reuse=True, weights=WEIGHTS):
    """The least that streams: two buffers, filled on one stream while the other computes."""
    compute, copies = fake.current(fake.device), fake.stream(fake.device)
    buffers = [torch.empty(WIDTH, WIDTH, device=fake.device) for _ in range(2)]
    read, arrived = [compute.record()] * 2, [None] * 2

    def fetch(k):
        with copies.entered(), fake.tagged(f"weight {k}"):
            if reuse:
                copies.wait(read[k % 2])
            buffers[k % 2].copy_(weights[k], non_blocking=True)
            arrived[k % 2] = copies.record()

    x = X.to(fake.device)
    fetch(0)
    for k in range(len(weights)):
        if k + 1 < len(weights):
            fetch(k + 1)
        if arrival:
            compute.wait(arrived[k % 2])
        with fake.tagged(f"layer {k}"):
            x = layer(x, buffers[k % 2])
        read[k % 2] = compute.record()
    return x


def run(seed, program=streamed, **arguments):
    with FakeAccelerator(seed) as fake:
        return program(fake, **arguments).cpu(), fake


def test_s13_a_correct_program_is_right_in_every_interleaving():
    want = expected()
    for seed in range(200):
        found, fake = run(seed)
        assert torch.equal(found, want), seed
        assert not fake.races
    assert fake.compute.waits == len(WEIGHTS)


def test_s13_interleavings_differ_between_seeds_and_not_within_one(monkeypatch):
    order = []
    step = FakeStream.step
    monkeypatch.setattr(FakeStream, "step", lambda stream: (order.append(stream.name), step(stream)))
    seen = []
    for seed in (*range(8), *range(8)):
        run(seed)
        seen.append(tuple(order))
        order.clear()
    assert seen[:8] == seen[8:]
    assert len(set(seen)) == 8


@pytest.mark.parametrize("missing", ["arrival", "reuse"])
def test_s13_a_missing_wait_makes_wrong_numbers_in_some_interleavings_and_is_named_in_all(missing):
    want = expected()
    results = [run(seed, **{missing: False}) for seed in range(50)]
    assert sum(not torch.equal(found, want) for found, _ in results) > 5
    assert all(fake.races for _, fake in results)
    first = {"arrival": "copy_ weight 0 on copy1 and t", "reuse": "mm layer 0 on compute and copy_ weight 2 on copy1"}
    assert first[missing].split(" and ")[0] in results[0][1].races[0]


def test_what_was_not_written_is_not_a_number(fake):
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        assert torch.empty(4, dtype=dtype, device=fake.device).cpu().float().isnan().all()


def test_memory_given_back_belongs_to_the_stream_it_was_allocated_on():
    """A weight made on the copy stream and let go while the compute stream has still to read it."""

    def program(fake, kept):
        copies, compute = fake.stream(fake.device), fake.current(fake.device)
        x, held = torch.ones(WIDTH, WIDTH).to(fake.device), []
        for weight in WEIGHTS:
            with copies.entered():
                made = weight.to(fake.device, non_blocking=True)
                arrived = copies.record()
            compute.wait(arrived)
            x = x + made
            held.append(made if kept else None)
        return x

    want = torch.ones(WIDTH, WIDTH)
    for weight in WEIGHTS:
        want = want + weight
    kept, given_back = ([run(seed, program, kept=kept) for seed in range(20)] for kept in (True, False))
    assert all(torch.equal(found, want) and not fake.races for found, fake in kept)
    assert not all(torch.equal(found, want) for found, _ in given_back)
    assert all(fake.races for _, fake in given_back)


def test_a_copy_reads_locked_memory_when_its_turn_comes_and_other_memory_at_once():
    def program(fake, pinned):
        staging, there = torch.zeros(64), torch.empty(64, device=fake.device)
        if pinned:
            fake.pages.register(staging.data_ptr(), staging.nbytes)
        staging.fill_(1)
        there.copy_(staging, non_blocking=True)
        staging.fill_(2)
        return there

    pageable, locked = ([run(seed, program, pinned=pinned) for seed in range(20)] for pinned in (False, True))
    assert all((found == 1).all() and not fake.races for found, fake in pageable)
    assert {found.unique().item() for found, _ in locked} == {1, 2}
    assert all("fill_" in fake.races[0] for _, fake in locked)


def test_a_blocking_copy_and_a_synchronized_one_leave_locked_memory_free_to_write(fake):
    staging, there = torch.ones(64), torch.empty(64, device=fake.device)
    fake.pages.register(staging.data_ptr(), staging.nbytes)
    there.copy_(staging)
    staging.fill_(2)
    there.copy_(staging, non_blocking=True)
    fake.synchronize(fake.device)
    staging.fill_(3)
    assert (there.cpu() == 2).all()
    assert not fake.races


def test_reading_back_without_waiting_is_found():
    def read(seed, wait):
        with FakeAccelerator(seed) as fake:
            back = (torch.ones(4).to(fake.device) * 2).to("cpu", non_blocking=True)
            if wait:
                fake.synchronize(fake.device)
            return torch.equal(back, torch.full((4,), 2.0)), bool(fake.races)

    assert {read(seed, wait=True) for seed in range(20)} == {(True, False)}
    assert {read(seed, wait=False) for seed in range(20)} == {(True, True), (False, True)}


def test_pages_are_not_unlocked_under_a_copy(fake):
    host = torch.ones(64)
    fake.pages.register(host.data_ptr(), host.nbytes)
    host.to(fake.device, non_blocking=True)
    fake.pages.unregister(host.data_ptr())
    assert "unregister by the host" in fake.races[0]


def test_a_network_computes_what_it_does_on_the_cpu():
    network = nn.Sequential(
        nn.Embedding(10, 16), nn.Linear(16, 16), nn.SiLU(), nn.LayerNorm(16), nn.Unflatten(1, (1, 4)),
        nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten(2), nn.Softmax(-1), nn.RMSNorm(64),
    ).eval()  # fmt: skip
    ids = torch.arange(4)[None]
    want = network(ids)
    for seed in range(5):
        with FakeAccelerator(seed) as fake, torch.inference_mode():
            network.to(fake.device)
            found = network(ids.to(fake.device))
            x = found.reshape(-1, 8)[:, ::2]
            x.mul_(2).add_(torch.ones(4, device=fake.device))
            torch.sin(x, out=x)
            network.to("cpu")
            want_x = torch.sin(want.detach().reshape(-1, 8)[:, ::2] * 2 + 1)
            assert found.device == fake.device
            assert torch.equal(x.cpu(), want_x)
            assert not fake.races


def test_numbers_that_the_host_needs_are_waited_for():
    for seed in range(20):
        with FakeAccelerator(seed) as fake:
            x = torch.arange(6.0).to(fake.device)
            assert (x + 1).sum().item() == 21
            assert x[x > 2].shape == (3,)
            assert x.nonzero().cpu().flatten().tolist() == [1, 2, 3, 4, 5]
            assert bool((x >= 0).all())


def test_waits_of_the_host_are_counted(fake):
    x = torch.ones(4).to(fake.device, non_blocking=True)
    assert fake.blocked == 0
    x.copy_(torch.ones(4))
    x.cpu()
    x.sum().item()
    assert fake.blocked == 3


def test_errors_of_use_are_raised_when_an_operation_is_enqueued(fake):
    x = torch.ones(2, 3).to(fake.device)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        x @ x
    with pytest.raises(RuntimeError, match="on one device"):
        x + torch.ones(2, 3)


def test_the_log_says_on_which_stream_in_enqueued_order(fake):
    streamed(fake, weights=WEIGHTS[:2])
    copies = [(entry.op, entry.tag, entry.shape) for entry in fake.log if entry.stream == "copy1"]
    square = (WIDTH, WIDTH)
    assert copies == [
        (op, f"weight {k}", shape) for k in range(2) for op, shape in (("wait", ()), ("copy_", square), ("record", ()))
    ]


def test_bytes_are_counted(fake):
    device = fake.device
    held = [torch.empty(100, device=device) for _ in range(3)]
    assert (fake.used(device), fake.held(device), fake.peak(device)) == (1200, 0, 1200)
    view = held[0][:10]
    held.clear()
    assert (fake.used(device), fake.held(device)) == (400, 800)
    del view
    assert (fake.used(device), fake.held(device), fake.peak(device)) == (0, 1200, 1200)
    fake.start_peak(device)
    again = torch.zeros(100, device=device)
    assert (fake.held(device), fake.peak(device)) == (800, 400)
    fake.trim(device)
    assert (fake.used(device), fake.held(device)) == (again.nbytes, 0)


def test_what_does_not_fit_is_refused():
    with FakeAccelerator(memory=1000) as fake:
        device = fake.device
        first = torch.empty(100, device=device)
        assert fake.free(device) == 600
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(200, device=device)
        del first
        torch.empty(200, device=device)  # what was given back makes room
        fake.others = 500
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(200, device=device)
        fake.cap(device, 300)
        assert fake.free(device) == 300
        with pytest.raises(torch.OutOfMemoryError):
            torch.ones(100).to(device)
        fake.out_of_memory = 1
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(1, device=device)
        assert torch.empty(1, device=device).nbytes == fake.used(device) or fake.used(device) == 0


def test_a_driver_that_locks_pages_refuses_and_complains(fake):
    pages, host = fake.pages, torch.zeros(64)
    pages.limit = 300
    assert pages.register(host.data_ptr(), 256) == 0
    assert pages.is_pinned(host)
    assert pages.is_pinned(host[8:])
    assert not pages.is_pinned(torch.zeros(64))
    assert pages.register(host.data_ptr(), 256) == 712
    with pytest.raises(RuntimeError, match="earlier call"):
        torch.zeros(1, device=fake.device)
    pages.clear_error()
    assert pages.register(torch.zeros(64).data_ptr(), 256) == 2
    pages.clear_error()
    assert pages.unregister(host.data_ptr()) == 0
    assert pages.unregister(host.data_ptr()) == 713
    pages.clear_error()
    pages.failures = [1]
    assert [pages.register(host.data_ptr(), 256) for _ in range(2)] == [1, 0]
    assert (pages.registered, pages.unregistered, pages.nbytes) == (2, 1, 256)


def test_a_device_may_have_no_copy_stream():
    assert FakeAccelerator(concurrent=False).stream(FakeAccelerator().device) is None
