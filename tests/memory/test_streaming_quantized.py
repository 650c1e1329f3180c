"""Quantized weights that are streamed: the same numbers in every interleaving, and no more bytes than they are kept in."""

from math import prod

import pytest
import torch

from limner.memory.pinned import PinnedMemory
from limner.weights import Patches
from limner.weights.quant import quantize
from tests.memory.double import FakeAccelerator
from tests.memory.test_streaming import (
    NORMS,
    Network,
    a_source,
    at_rest,
    copied,
    numbers,
    passes,
    placed,
    some_patches,
    streams,
)

DEPTH = 16
ORDERS = (list(range(DEPTH)), [*reversed(range(10)), 5, 5, *range(12, DEPTH)])
LAYOUTS = (
    "float8_e4m3fn", "int8_dynamic", "nf4", "nvfp4", "float8_e4m3fn_rowwise", "int8_smooth", "int4_groups", "mxfp8",
)  # fmt: skip


def network():
    """A shorter one than the other tests'."""
    return Network(DEPTH)


def in_layouts():
    """Each layer in the next of the layouts; norms and biases as they are."""
    found = numbers(network)
    for place in (place for place in range(DEPTH) if place not in NORMS):
        name = f"layers.{place}.weight"
        found[name] = quantize(found[name], LAYOUTS[place % len(LAYOUTS)])
    return found


TENSORS = in_layouts()
PLAIN = a_source(network, tensors=TENSORS)


@pytest.mark.parametrize("pinned", [False, True])
def test_s13_quantized_weights_give_the_same_numbers_in_every_interleaving(pinned):
    source = a_source(network, tensors=TENSORS, patches=some_patches())
    want, plain = at_rest(ORDERS, source), at_rest(ORDERS[:1], PLAIN)
    for seed in range(3):
        with FakeAccelerator(seed) as fake:
            one = placed(fake, source)
            if pinned:
                memory = PinnedMemory(fake.pages, 1 << 20)
                one.pin(memory)
                assert one.pinned == memory.total == fake.pages.nbytes > sum(one.nbytes for one in TENSORS.values())
            assert torch.equal(passes(fake, one.network, ORDERS).cpu(), want), seed
            one.repatch(Patches())
            found = passes(fake, one.network, ORDERS[:1])
            one.bring(range(0, DEPTH, 2))
            assert torch.equal(found.cpu(), plain), seed
            assert torch.equal(passes(fake, one.network, ORDERS[:1]).cpu(), plain), seed
            one.close()
            assert fake.pages.nbytes == 0
            assert not fake.races


def test_s13_what_crosses_is_what_a_quantized_weight_is_kept_in():
    with FakeAccelerator() as fake:
        one = placed(fake, PLAIN)
        passes(fake, one.network, ORDERS[:1])
        crossed = sum(prod(entry.shape) * entry.dtype.itemsize for entry in copied(fake))
        assert {entry.op for entry in streams(fake)[0]} == {"wait", "copy_", "record"}
        first = sum(TENSORS[f"layers.0.{leaf}"].nbytes for leaf in ("weight", "bias"))
        assert crossed == sum(one.nbytes for one in TENSORS.values()) + first  # and what the next pass begins with
        assert sum(unit.moved for unit in one.units) == crossed - first


def test_s13_buffers_are_as_large_as_units_say():
    for source in (PLAIN, a_source(network, tensors=TENSORS, patches=some_patches())):
        with FakeAccelerator() as fake:
            one = placed(fake, source)
            passes(fake, one.network, ORDERS[:1])
            streamer = one.target.streamer
            assert streamer.nbytes == 2 * max(unit.streamed for unit in one.units)
