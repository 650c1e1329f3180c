"""Every layout in every form on three networks: patched, offloaded, pinned, saved and reloaded, compiled."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import gguf
import pytest
import torch
from torch import Tensor

from limner.memory import MemoryManager, policy
from limner.models.load import load_diffusion_model
from limner.models.model import Model
from limner.models.saving import save_checkpoint
from limner.weights import CheckpointHeader, save
from limner.weights.lazy import PackedTensor
from limner.weights.quant import REGISTRY, QuantizedTensor, computing, quantize, sqnr
from limner.weights.quant.files import packed_entries, quantized
from tests.memory.matrix import FAMILIES, WORKING, at_rest, device, every_second, loras, picture, pictures

KINDS = ("plain", "one LoRA")
LAYOUTS = (
    "float8_e4m3fn", "float8_e4m3fn_rowwise", "int8_dynamic", "int8_smooth", "int4_groups", "nf4", "mxfp8", "nvfp4",
    "gguf_q8_0",
)  # fmt: skip
EVERY = "every"
"""All of them in one network, a layer each in turn."""
AT_RANDOM = 3.1
"""dB that rounding at random, as a patched weight is, is worse than rounding to the nearest."""
File = Callable[[str, str], Path]


def in_layout(tensors: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    """The same, each weight that the layout holds in it."""
    found: dict[str, Tensor] = {}
    turn = 0
    for name, tensor in tensors.items():
        own = REGISTRY[LAYOUTS[turn % len(LAYOUTS)] if layout == EVERY else layout]
        blocks = own.block if own.name.startswith("gguf") else 1
        fits = name.endswith(".weight") and tensor.ndim > 1 and tensor[0].numel() % blocks == 0
        fits = fits and not (own.matrices_only and tensor.ndim > 2)
        found[name] = quantize(tensor, own) if fits else tensor
        turn += fits
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> File:
    """A network's file, in a layout or none."""
    folder = tmp_path_factory.mktemp("quantized")

    @cache
    def make(family: str, layout: str) -> Path:
        part = FAMILIES[family].part
        config = {"config": json.dumps({"unet": part.config})}
        tensors = {key: value.contiguous() for key, value in part.tensors().items()}
        tensors = in_layout(tensors, layout) if layout else tensors
        if layout.startswith("gguf"):
            return write_gguf(folder / f"{family}.gguf", tensors, config)
        save(folder / f"{family} {layout}.safetensors", tensors, config)
        return folder / f"{family} {layout}.safetensors"

    return make


def write_gguf(path: Path, tensors: dict[str, Tensor], texts: dict[str, str]) -> Path:
    """By the gguf package."""
    writer = gguf.GGUFWriter(path, "limner")
    for name, text in texts.items():
        writer.add_string(name, text)
    for name, tensor in tensors.items():
        if not isinstance(tensor, QuantizedTensor):
            writer.add_tensor(name, tensor.numpy())
            continue
        if tensor.ndim > 2:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(tensor.shape))
        kind = gguf.GGMLQuantizationType[tensor.packing.name.removeprefix("gguf_").upper()]
        writer.add_tensor(name, tensor._qdata.numpy(), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def least(layout: str) -> float:
    """dB that a picture has at least."""
    return min(REGISTRY[name].least_sqnr for name in (LAYOUTS if layout == EVERY else (layout,)))


@pytest.mark.parametrize("layout", [*LAYOUTS, EVERY])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_is_near_the_exact_one_patched_or_not(file: File, family: str, layout: str) -> None:
    exact = at_rest(file(family, ""), family, kinds=KINDS)
    found = at_rest(file(family, layout), family, kinds=KINDS)
    for kind, bound in zip(KINDS, (least(layout), least(layout) - AT_RANDOM), strict=True):
        assert bound <= sqnr(exact.pictures[kind], found.pictures[kind]) < 100, kind


@pytest.mark.parametrize("layout", [*LAYOUTS, EVERY])
@pytest.mark.parametrize("family", FAMILIES)
def test_offloaded_it_is_the_same_picture_bit_for_bit(file: File, family: str, layout: str) -> None:
    kinds = ("hooks", *KINDS) if layout == EVERY else KINDS
    want = at_rest(file(family, layout), family, kinds=kinds)
    with device(False, WORKING, novram=True, disable_pinned_memory=True) as manager:
        found, model = pictures(manager, file(family, layout), family, kinds=kinds)
        held = manager.holding(model.source)
    assert [kind for kind in kinds if not torch.equal(found[kind], want.pictures[kind])] == []
    assert held is not None
    assert held.resident + held.streamed == want.nbytes
    assert held.streamed > 0.9 * want.nbytes


@pytest.mark.parametrize("place", ["partly", "streamed", "pinned"])
@pytest.mark.parametrize("family", FAMILIES)
def test_on_an_accelerator_it_is_the_same_picture_wherever_weights_are(
    file: File, family: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file(family, EVERY)
    entries = dict(packed_entries(quantized(CheckpointHeader.read(path))))
    assert {entry.layout for entry in entries.values()} == {*LAYOUTS}
    want = at_rest(path, family, double=True, kinds=KINDS)
    here = at_rest(path, family, kinds=KINDS)
    assert all(sqnr(here.pictures[kind], want.pictures[kind]) > 45 for kind in KINDS)  # int8 is multiplied as floats
    few = place != "partly"
    if not few:
        monkeypatch.setattr(policy, "grown", every_second)
    memory = WORKING * 2 if few else 1 << 40
    with device(True, memory, novram=few, disable_pinned_memory=place != "pinned") as manager:
        found, model = pictures(manager, path, family, kinds=KINDS)
        held = manager.holding(model.source)
    assert [kind for kind in KINDS if not torch.equal(found[kind], want.pictures[kind])] == []
    assert held is not None
    assert held.resident + held.streamed == want.nbytes
    assert held.streamed > (0.9 if few else 0.2) * want.nbytes
    assert (held.pinned > held.streamed) == (place == "pinned")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_reloaded_it_is_the_same_picture_bit_for_bit(
    file: File, family: str, layout: str, tmp_path: Path
) -> None:
    want = at_rest(file(family, layout), family, kinds=KINDS)
    with device(False, 1 << 40) as manager:
        model = load_diffusion_model(file(family, layout), manager)
        before = packed(model)
        for kind in KINDS:
            if kind == "one LoRA":
                model.add_patches(loras(model, 0), 0.8)
            path = tmp_path / f"{kind}.safetensors"
            save_checkpoint(path, model, None, None, {}, "")
            again = load_diffusion_model(path, manager)
            assert torch.equal(picture(again, FAMILIES[family], "plain"), want.pictures[kind]), kind
            after = packed(again)
            assert {name: (one.layout, one.shape) for name, one in after.items()} == {
                name: (one.layout, one.shape) for name, one in before.items()
            }
            changed = {name.removeprefix(model.source.prefix) for name in model.patches}
            for name in after.keys() - changed:  # byte by byte what it was
                assert torch.equal(_bytes(after[name].read()), _bytes(before[name].read())), name
    save_checkpoint(tmp_path / "twice.safetensors", again, None, None, {}, "")
    assert (tmp_path / "twice.safetensors").read_bytes() == path.read_bytes()


def packed(model: Model) -> dict[str, PackedTensor]:
    """Its quantized weights."""
    return {name: one for name, one in model.source.tensors.items() if isinstance(one, PackedTensor)}


def _bytes(weight: Tensor) -> Tensor:
    assert isinstance(weight, QuantizedTensor)
    return torch.cat([one.contiguous().flatten().view(torch.uint8) for one in weight.inner_tensors().values()])


@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_it_is_the_same_picture(file: File, family: str) -> None:
    want = at_rest(file(family, EVERY), family, kinds=KINDS)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with device(False, 1 << 40) as manager:
        model = load_diffusion_model(file(family, EVERY), manager)
        with model.loaded(WORKING) as network:
            part = network.double_blocks[0] if family == "flux" else network  # the others are slow to compile
            part.compile(backend="eager")
            found = picture(model, FAMILIES[family], "plain")
    assert torch.allclose(found, want.pictures["plain"], rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def test_q15_a_network_whose_layers_multiply_in_float8_streams_the_same_numbers(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    products: list[int] = []

    def product(x: Tensor, weight: Tensor, scale_a: Tensor, scale_b: Tensor, out_dtype: torch.dtype) -> Tensor:
        products.append(weight.shape[1])
        return ((x.float() * scale_a) @ (weight.float() * scale_b)).to(out_dtype)

    monkeypatch.setattr(torch, "_scaled_mm", product)
    monkeypatch.setattr(REGISTRY["float8_e4m3fn"], "activations", "dynamic")
    found, counts = [], []
    for novram in (False, True):
        with device(True, WORKING * 2 if novram else 1 << 40, novram=novram) as manager, computing(fp8=True):
            found.append(pictures(manager, file("qwen_image", "float8_e4m3fn"), "qwen_image", kinds=KINDS)[0])
        counts.append(tuple(products))
        products.clear()
    assert counts[0] == counts[1]
    assert len(counts[0]) > 20
    assert all(torch.equal(found[0][kind], found[1][kind]) for kind in KINDS)


def memory_of(manager: MemoryManager, path: Path) -> tuple[int, int]:
    """Bytes that a model says it has, and that it takes where it is brought."""
    model = load_diffusion_model(path, manager)
    with model.loaded():
        held = manager.holding(model.source)
    assert held is not None
    return model.size, held.resident


@pytest.mark.parametrize("layout", ["float8_e4m3fn", "nvfp4"])
def test_memory_counts_what_is_kept_not_what_it_stands_for(file: File, layout: str) -> None:
    path = file("flux", layout)
    with device(True, 1 << 40) as manager:
        size, resident = memory_of(manager, path)
    header = quantized(CheckpointHeader.read(path))
    assert size == resident == header.nbytes()
    with device(True, 1 << 40) as manager:
        dense, _ = memory_of(manager, file("flux", ""))
    assert size < (0.35 if layout == "float8_e4m3fn" else 0.25) * dense
