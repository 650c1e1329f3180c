"""A layout that a pack on disk brings, from its registration to a picture of a file that is in it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from limner.errors import BadInput, NotFound
from limner.models.load import load_checkpoint
from limner.models.model import Model
from limner.models.saving import save_checkpoint
from limner.sampling import ksample
from limner.weights import CheckpointHeader, save
from limner.weights.adapters.plain import Difference
from limner.weights.lazy import PackedTensor
from limner.weights.quant import REGISTRY, counting_fallbacks, quantize
from limner.weights.quant.files import quantized
from tests.models.checkpoints import checkpoint, memory, tensors
from tests.weights.quant.make import gaussian

PACK = """
import torch
from comfy.quant_ops import LAYOUTS, QUANT_ALGOS, QuantizedLayout, register_layout_op

MULTIPLIED = []


class TenthsLayout(QuantizedLayout):
    @classmethod
    def quantize(cls, tensor, scale=None, **kwargs):
        scale = (tensor.abs().amax() / 100).float() if scale is None else scale
        return (tensor / scale).round().to(torch.int8), {"scale": scale, "orig_dtype": tensor.dtype}

    @staticmethod
    def dequantize(qdata, scale, orig_dtype, **kwargs):
        return qdata.to(orig_dtype) * scale


QUANT_ALGOS["tenths"] = {
    "storage_t": torch.int8, "parameters": {"weight_scale", "input_scale"}, "comfy_tensor_layout": "TenthsLayout",
}
LAYOUTS["TenthsLayout"] = TenthsLayout


@register_layout_op(torch.ops.aten.linear.default, "TenthsLayout")
def tenths_linear(func, args, kwargs):
    x, weight, bias = args[0], args[1], args[2] if len(args) > 2 else None
    MULTIPLIED.append(tuple(weight.shape))
    found = torch.nn.functional.linear(x, weight._qdata.to(x.dtype)) * weight._layout_params["scale"]
    return found if bias is None else found + bias


NODE_CLASS_MAPPINGS = {}
"""
PREFIX = "model.diffusion_model."
LAYER = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"


@pytest.fixture
def multiplied(place: Any) -> Iterator[list[tuple[int, ...]]]:
    """The pack is loaded; what its product has multiplied."""
    place.pack("tenths", PACK)
    place.load()
    from comfy.quant_ops import LAYOUTS, QUANT_ALGOS  # type: ignore[import-not-found]

    module = sys.modules[LAYOUTS["TenthsLayout"].__module__]
    try:
        yield module.MULTIPLIED
    finally:
        del QUANT_ALGOS["tenths"], LAYOUTS["TenthsLayout"]
    assert "TenthsLayout" not in REGISTRY
    assert "tenths" not in REGISTRY


def test_q08_a_pack_on_disk_brings_a_layout(multiplied: list[tuple[int, ...]]) -> None:
    weight = quantize(gaussian(4, 8), "TenthsLayout")
    assert (weight.dequantize() - gaussian(4, 8)).abs().max() <= gaussian(4, 8).abs().max() / 190
    x = gaussian(2, 8, seed=1)
    assert torch.allclose(F.linear(x, weight), F.linear(x, weight.dequantize()), atol=1e-5)
    assert multiplied == [(4, 8)]


def in_tenths(folder: Path, *without: str) -> tuple[Path, torch.Tensor]:
    """A checkpoint one of whose layers is in the pack's layout, as another program would write it; and that layer."""
    contents = tensors()
    weight = contents[f"{PREFIX}{LAYER}.weight"]
    scale = weight.abs().amax() / 100
    numbers = (weight / scale).round().to(torch.int8)
    contents |= {f"{PREFIX}{LAYER}.weight": numbers, f"{PREFIX}{LAYER}.weight_scale": scale}
    contents |= {f"{PREFIX}{LAYER}.input_scale": torch.tensor(0.5)}
    said = {"format_version": "1.0", "layers": {LAYER: {"format": "tenths"}}}
    path = checkpoint(folder, {name: one for name, one in contents.items() if not name.endswith(without)})
    header = CheckpointHeader.read(path)
    metadata = {**header.metadata, "_quantization_metadata": json.dumps(said)}
    save(folder / "tenths.safetensors", {name: header.tensor(name) for name in header}, metadata)
    return folder / "tenths.safetensors", numbers.float() * scale


def sampled(model: Model) -> torch.Tensor:
    """What the node KSampler makes of a blank latent."""
    text = [[torch.ones(1, 3, 6), {}]], [[torch.zeros(1, 3, 6), {}]]
    found: torch.Tensor = ksample(model, 3, 2, 2.0, "euler", "normal", *text, {"samples": torch.zeros(1, 4, 8, 8)})[
        "samples"
    ]
    return found


def test_q08_a_file_in_a_packs_layout_is_loaded_sampled_patched_and_saved(
    multiplied: list[tuple[int, ...]], tmp_path: Path
) -> None:
    path, dense = in_tenths(tmp_path)
    model = load_checkpoint(path, memory()).model
    entry = model.source.tensors[f"{LAYER}.weight"]
    assert isinstance(entry, PackedTensor)
    assert entry.layout == "TenthsLayout"
    assert entry.nbytes == dense.numel() + 8
    exact = tensors() | {f"{PREFIX}{LAYER}.weight": dense}
    plain = load_checkpoint(checkpoint(tmp_path, exact, "plain.safetensors"), memory()).model
    with counting_fallbacks() as fallbacks:
        found = sampled(model)
    assert not fallbacks.counts
    assert set(multiplied) == {tuple(dense.shape)}
    assert torch.allclose(found, sampled(plain), atol=1e-3)

    streamed = load_checkpoint(path, memory(novram=True)).model
    assert torch.equal(sampled(streamed), found)

    key = f"diffusion_model.{LAYER}.weight"
    for one in (model, streamed):
        one.add_patches({key: Difference("a change", dense * 0.5)}, 1.0)
    patched = sampled(model)
    assert torch.equal(sampled(streamed), patched)
    assert not torch.allclose(patched, found, atol=1e-3)
    save_checkpoint(tmp_path / "again.safetensors", model, None, None, {}, "")
    said = json.loads(CheckpointHeader.read(tmp_path / "again.safetensors").metadata["_quantization_metadata"])
    assert said["layers"] == {LAYER: {"format": "tenths"}}
    again = quantized(CheckpointHeader.read(tmp_path / "again.safetensors")).tensor(f"{PREFIX}{LAYER}.weight")
    assert torch.allclose(again.dequantize().float(), dense * 1.5, rtol=0.02, atol=1e-2)


def test_q08_a_file_in_a_packs_layout_lacks_nothing(multiplied: list[tuple[int, ...]], tmp_path: Path) -> None:
    del multiplied
    path, _ = in_tenths(tmp_path, ".weight_scale")
    with pytest.raises(BadInput, match=r"to_q lacks weight_scale"):
        load_checkpoint(path, memory())


def test_q08_without_its_pack_such_a_file_is_refused_by_name(tmp_path: Path) -> None:
    path, _ = in_tenths(tmp_path)
    with pytest.raises(NotFound, match="unknown quantization format 'tenths'"):
        load_checkpoint(path, memory())
