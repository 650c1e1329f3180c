"""GGUF files: read as the gguf package reads them, packed until used, and refused where they contradict themselves."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from limner.errors import BadInput
from limner.weights import CheckpointHeader
from limner.weights.gguf import OTHERS, PACKED, PLAIN
from limner.weights.quant import QuantizedTensor, counting_fallbacks, quantize, sqnr
from limner.weights.quant.gguf_blocks import BLOCKS
from tests.weights.quant.make import gaussian

KINDS = tuple(BLOCKS)


def finite_blocks(kind: str, count: int) -> np.ndarray:
    """Random blocks whose float16 scales are finite."""
    form = BLOCKS[kind]
    blocks = np.random.default_rng(0).integers(0, 256, (count, form.bytes), dtype=np.uint8)
    halves = {
        "Q2_K": (80, 82),
        "Q3_K": (108,),
        "Q6_K": (208,),
        "Q4_K": (0, 2),
        "Q5_K": (0, 2),
        "Q4_1": (0, 2),
        "Q5_1": (0, 2),
    }
    for at in halves.get(kind, (0,)):
        blocks[:, at + 1] &= 0b10111011  # keeps the exponent from being all ones
    return blocks


def write(path: Path, **tensors: tuple[np.ndarray, str]) -> Path:
    writer = gguf.GGUFWriter(path, "flux")
    writer.add_string("general.name", "a fox")
    writer.add_uint32("some.number", 7)
    writer.add_array("some.list", ["a", "b"])
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_read_to_the_same_bits_as_the_package(kind: str) -> None:
    blocks = finite_blocks(kind, 300)
    exact = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    assert np.isfinite(exact).all()
    assert np.array_equal(BLOCKS[kind].read(torch.from_numpy(blocks)).numpy(), exact)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_what_is_written_is_as_good_as_the_package_s(kind: str) -> None:
    weight = gaussian(64, 256)
    theirs = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType[kind])
    theirs = gguf.quants.dequantize(theirs, gguf.GGMLQuantizationType[kind])
    ours = quantize(weight, f"gguf_{kind.lower()}")
    assert np.array_equal(
        gguf.quants.dequantize(ours._qdata.numpy(), gguf.GGMLQuantizationType[kind]), ours.dequantize().numpy()
    )
    assert sqnr(weight, ours.dequantize()) > sqnr(weight, torch.from_numpy(theirs)) - 0.05


def test_types_are_known_by_the_package_s_numbers() -> None:
    for number, kind in (PACKED | OTHERS).items():
        assert gguf.GGMLQuantizationType(number).name == kind
    for kind, block in BLOCKS.items():
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]] == (block.weights, block.bytes)
    for number in PLAIN:
        assert gguf.GGMLQuantizationType(number).name[0] in "FIB"


@pytest.mark.parametrize("use_mmap", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_read_packed_and_computed_with(tmp_path: Path, kind: str, use_mmap: bool) -> None:
    raw = finite_blocks(kind, 16 * 512 // BLOCKS[kind].weights).reshape(16, -1)
    exact = torch.from_numpy(gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind]))
    bias = np.arange(16, dtype=np.float32)
    path = write(tmp_path / "a.gguf", **{"a.weight": (raw, kind), "a.bias": (bias, "F32")})
    header = CheckpointHeader.read(path, use_mmap)
    assert header.shapes() == {"a.weight": (16, 512), "a.bias": (16,)}
    assert header.dtype("a.weight") == torch.bfloat16
    assert header.nbytes() == raw.nbytes + bias.nbytes
    assert header.metadata["general.name"] == "a fox"
    assert header.metadata["some.number"] == "7"
    assert header.metadata["some.list"] == '["a", "b"]'
    weight = header.tensor("a.weight")
    assert isinstance(weight, QuantizedTensor)
    assert weight.nbytes == raw.nbytes
    assert torch.equal(weight.float().dequantize(), exact)
    assert torch.equal(header.tensors["a.weight"].narrow(4, 8).read().float().dequantize(), exact[4:12])
    x = gaussian(3, 512)
    with counting_fallbacks() as fallbacks, torch.inference_mode():
        found = F.linear(x, weight.to(x.dtype), header.tensor("a.bias"))
    assert torch.allclose(found, F.linear(x, exact, torch.from_numpy(bias)), rtol=1e-3, atol=1e-3)
    assert not fallbacks.counts


def test_plain_types_are_plain_tensors(tmp_path: Path) -> None:
    half = np.arange(6, dtype=np.float16).reshape(2, 3)
    bf16 = torch.arange(4).bfloat16()
    path = write(
        tmp_path / "a.gguf", h=(half, "F16"), b=(bf16.view(torch.uint8).numpy().reshape(1, 8), "BF16"),
        i=(np.arange(3, dtype=np.int32), "I32"),
    )  # fmt: skip
    header = CheckpointHeader.read(path)
    assert torch.equal(header.tensor("h"), torch.from_numpy(half))
    assert torch.equal(header.tensor("b"), bf16[None])
    assert header.tensor("i").dtype == torch.int32


def test_a_tensor_of_more_axes_has_them(tmp_path: Path) -> None:
    raw = finite_blocks("Q8_0", 2 * 3 * 2)
    path = write(tmp_path / "a.gguf", w=(raw.reshape(2, 3, -1), "Q8_0"))
    weight = CheckpointHeader.read(path).tensor("w")
    assert weight.shape == (2, 3, 64)
    exact = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q8_0).reshape(2, 3, 64)
    assert np.array_equal(weight.float().dequantize().numpy(), exact)


@pytest.mark.parametrize(("told", "packed"), [([4, 96], True), ([32, 2, 6], False)])
def test_the_metadata_may_give_a_tensor_its_own_shape(tmp_path: Path, told: list[int], packed: bool) -> None:
    raw = finite_blocks("Q8_0", 12)
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "flux")
    writer.add_array("any.gguf.orig_shape.w", told)
    writer.add_tensor("w", raw.reshape(2, -1), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    weight = CheckpointHeader.read(path).tensor("w")
    assert list(weight.shape) == told
    assert isinstance(weight, QuantizedTensor) is packed
    exact = torch.from_numpy(gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q8_0)).reshape(told)
    dense = weight.float().dequantize() if packed else weight.float()
    assert sqnr(exact, dense) > (100 if packed else 50)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def info(name: bytes = b"w", shape: tuple[int, ...] = (32, 2), kind: int = 8, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", kind, offset)


def build(
    *infos: bytes,
    entries: tuple[bytes, ...] = (),
    version: int = 3,
    count: int | None = None,
    data: int = 68,
    tail: bytes = b"",
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(infos) if count is None else count, len(entries))
    head += b"".join(entries) + b"".join(infos)
    return head + b"\0" * (-len(head) % 32) + b"\0" * data + tail


def entry(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


ONE = info()
DAMAGED = {
    "nothing after the letters": (b"GGUF", "ends within"),
    "cut in the counts": (b"GGUF" + struct.pack("<IQ", 3, 1), "more than fit"),
    "version 1": (build(ONE, version=1), "version is 1"),
    "version 99": (build(ONE, version=99), "version is 99"),
    "big-endian": (build(ONE, version=3 << 24), "big-endian"),
    "more tensors than bytes": (build(ONE, count=1 << 60), "more than fit"),
    "a name longer than the file": (build(struct.pack("<Q", 1 << 50) + b"w" * 40), "ends within"),
    "a name that is not text": (build(info(name=b"\xff\xfe")), "UTF-8"),
    "five axes": (build(info(shape=(32, 1, 1, 1, 1))), "5 axes"),
    "shape beyond the data": (build(info(shape=(1 << 40, 1 << 20))), "needs bytes up to"),
    "offset beyond the data": (build(info(offset=1 << 40)), "needs bytes up to"),
    "offset between places": (build(info(offset=8)), "no multiple"),
    "data cut off": (build(ONE, data=60), "needs bytes up to"),
    "rows that cut a block": (build(info(shape=(33, 2))), "does not fit blocks"),
    "a packed single number": (build(info(shape=())), "does not fit blocks"),
    "twice the same name": (build(ONE, info(offset=96), data=200), "twice"),
    "tensors that overlap": (build(ONE, info(name=b"v", offset=32), data=200), "share bytes"),
    "a type that is not read": (build(info(kind=16)), "IQ2_XXS"),
    "a type nobody knows": (build(info(kind=77)), "type 77"),
    "metadata of a type nobody knows": (build(ONE, entries=(entry(b"a", 99, b""),)), "type 99"),
    "metadata twice": (build(ONE, entries=(entry(b"a", 0, b"\1"), entry(b"a", 0, b"\1"))), "twice"),
    "a list longer than the file": (build(ONE, entries=(entry(b"a", 9, struct.pack("<IQ", 0, 1 << 61)),)), "more than fit"),
    "lists within lists": (build(ONE, entries=(entry(b"a", 9, struct.pack("<IQ", 9, 1) * 9),)), "not known here"),
    "alignment of nothing": (build(ONE, entries=(entry(b"general.alignment", 4, struct.pack("<I", 0)),)), "alignment"),
    "alignment of a word": (build(ONE, entries=(entry(b"general.alignment", 8, text(b"x")),)), "alignment"),
    "another shape of more numbers": (
        build(ONE, entries=(entry(b"x.orig_shape.w", 9, struct.pack("<IQ2i", 5, 2, 32, 3)),)), "its data have",
    ),
    "another shape of none": (
        build(ONE, entries=(entry(b"x.orig_shape.w", 9, struct.pack("<IQ2i", 5, 2, -32, -2)),)), "the shape",
    ),
    "another shape that is a word": (build(ONE, entries=(entry(b"x.orig_shape.w", 8, text(b"x")),)), "the shape"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path, what: str) -> None:
    data, words = DAMAGED[what]
    path = tmp_path / "a.gguf"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=words):
        CheckpointHeader.read(path)


def test_the_same_file_without_damage_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(build(ONE))
    assert CheckpointHeader.read(path).tensor("w").shape == (2, 32)


def test_every_cut_is_refused(tmp_path: Path) -> None:
    whole = build(ONE, entries=(entry(b"general.name", 8, text(b"fox")),))
    path = tmp_path / "a.gguf"
    for length in range(4, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(BadInput, match="not a usable GGUF file"):
            CheckpointHeader.read(path)


@pytest.mark.parametrize("kind", ["gguf_q4_0", "gguf_q5_0"])
def test_the_bound_holds_where_the_largest_are_of_both_signs(kind: str) -> None:
    """One more step is wanted on one side than there is, and steps are rounded to float16."""
    weights = torch.randn(4096, 32, generator=torch.manual_seed(0))
    weights[:, 0] = weights.abs().amax(1)
    weights[:, 1] = -weights[:, 0]
    found = QuantizedTensor.from_float(weights, kind)
    bound = found.error_bound()
    assert bound is not None
    error = (found.dequantize() - weights).abs()
    assert bool((error <= bound).all())
    assert bool((error > 0.99 * bound).any())
