"""Damaged and dishonest quantized files: each is refused by name, before a weight is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from limner.errors import LimnerError
from limner.weights import CheckpointHeader, save
from limner.weights.mapped import MappedFile
from limner.weights.quant import quantize
from limner.weights.quant.files import quantized
from tests.weights.quant.make import gaussian

KEY = "_quantization_metadata"
Tensors = dict[str, Tensor]


def said(layers: Any, **more: Any) -> dict[str, str]:
    return {KEY: json.dumps({"format_version": "1.0", "layers": layers, **more})}


def of(layout: str, *shape: int) -> Tensors:
    """A layer `a` in a layout, by the guide's names."""
    weight = quantize(gaussian(*(shape or (32, 64))), layout)
    return {f"a.{name}": one.clone() for name, one in weight.packing.to_file(weight.parts).items()}


def fp8(**changes: Tensor | None) -> Tensors:
    """The same in float8, with other tensors, or without some."""
    found = of("float8_e4m3fn") | {f"a.{name}": one for name, one in changes.items() if one is not None}
    return {name: one for name, one in found.items() if changes.get(name[2:], one) is not None}


def text(value: object) -> Tensor:
    return torch.tensor(list(value if isinstance(value, bytes) else json.dumps(value).encode()), dtype=torch.uint8)


def block(layout: str, value: float | int, part: str = "weight_scale", at: int = 5) -> Tensors:
    """A layout with blocks, one of whose scales is this."""
    found = of(layout)
    scale = found[f"a.{part}"]
    (scale.view(torch.uint8) if isinstance(value, int) else scale).view(-1)[at] = value
    return found


def nf4_of_bitsandbytes(**changes: Any) -> Tensors:
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [32, 64], **changes}
    return {
        "a.weight": torch.zeros(1024, 1, dtype=torch.uint8),
        "a.weight.absmax": torch.ones(32),
        "a.weight.quant_map": torch.linspace(-1, 1, 16),
        "a.weight.quant_state.bitsandbytes__nf4": text(state),
    }


@dataclass(frozen=True)
class Damage:
    """A file. message: what its refusal says, beside the file's name."""

    title: str
    message: str
    tensors: Callable[[], Mapping[str, Tensor]]
    metadata: Callable[[], dict[str, str]] = dict


FP8 = {"a": {"format": "float8_e4m3fn"}}
NAN, INF = float("nan"), float("inf")
NO_SCALES = "a: weight_scale holds numbers that are no scales"

DAMAGES = [
    Damage("metadata is not JSON", f"{KEY} is not JSON", fp8, lambda: {KEY: "{layers: a}"}),
    Damage("metadata is cut off", f"{KEY} is not JSON", fp8, lambda: {KEY: said(FP8)[KEY][:-2]}),
    Damage("metadata nests without end", f"{KEY} is not JSON", fp8, lambda: {KEY: "[" * 100_000}),
    Damage("metadata is a list", f"{KEY} is no JSON object", fp8, lambda: {KEY: "[]"}),
    Damage("metadata names no layers", f"{KEY} names no layers", fp8, lambda: {KEY: '{"format_version": "1.0"}'}),
    Damage("layers are a list", f"{KEY} names no layers", fp8, lambda: said(["a"])),
    Damage("a version to come", f"{KEY} has the version '2.0'", fp8, lambda: said(FP8, format_version="2.0")),
    Damage("a version that is a number", f"{KEY} has the version 1.0", fp8, lambda: said(FP8, format_version=1.0)),
    Damage("a layer twice", "names 'a' twice", fp8, lambda: {KEY: '{"layers": {"a": "nvfp4", "a": "nvfp4"}}'}),
    Damage(
        "a layer by two names", "names the layer 'net.a' twice",
        lambda: {f"net.{name}": one for name, one in fp8().items()}, lambda: said({"a": "float8_e4m3fn", "net.a": "nvfp4"}),
    ),
    Damage("a layer that is not there", "there is no layer 'b'", fp8, lambda: said(FP8 | {"b": "float8_e4m3fn"})),
    Damage("an empty layer name", "there is no layer ''", fp8, lambda: said({"": "float8_e4m3fn"})),
    Damage("an unknown format", "a has the unknown quantization format 'fp3'", fp8, lambda: said({"a": "fp3"})),
    Damage("a format that is a number", "a has an unknown quantization format", fp8, lambda: said({"a": {"format": 8}})),
    Damage("no format", "a has an unknown quantization format", fp8, lambda: said({"a": {}})),
    Damage("a layer of which a number is said", "What is said of a is no format", fp8, lambda: said({"a": 8})),
    Damage("no scale", "a lacks weight_scale", lambda: fp8(weight_scale=None), lambda: said(FP8)),
    Damage("no weight", "there is no layer 'a'", lambda: fp8(weight=None), lambda: said(FP8)),
    Damage("a negative scale", NO_SCALES, lambda: fp8(weight_scale=torch.tensor(-0.1)), lambda: said(FP8)),
    Damage("a scale of zero", NO_SCALES, lambda: fp8(weight_scale=torch.tensor(0.0)), lambda: said(FP8)),
    Damage("a scale that is no number", NO_SCALES, lambda: fp8(weight_scale=torch.tensor(NAN)), lambda: said(FP8)),
    Damage("an infinite scale", NO_SCALES, lambda: fp8(weight_scale=torch.tensor(INF)), lambda: said(FP8)),
    Damage("an infinite scale of inputs", "a: input_scale holds", lambda: fp8(input_scale=torch.tensor(INF)), lambda: said(FP8)),
    Damage("two scales of inputs", "a: input_scale has 2 numbers", lambda: fp8(input_scale=torch.ones(2)), lambda: said(FP8)),
    Damage(
        "too few smoothing numbers", "a: pre_quant_scale has 63 numbers",
        lambda: fp8(pre_quant_scale=torch.ones(63)), lambda: said(FP8),
    ),
    Damage(
        "a scale of another shape", r"a: weight_scale has the shape [3]",
        lambda: fp8(weight_scale=torch.ones(3)), lambda: said(FP8),
    ),
    Damage(
        "a scale of whole numbers", "a: weight_scale has the dtype torch.int64",
        lambda: fp8(weight_scale=torch.tensor(1)), lambda: said(FP8),
    ),
    Damage(
        "a weight in another dtype", "a: weight has the dtype torch.float32",
        lambda: fp8(weight=gaussian(32, 64)), lambda: said(FP8),
    ),
    Damage("a weight of five bits", "a: weight has the dtype torch.int8", lambda: of("int8_tensorwise"), lambda: said(FP8)),
    Damage(
        "blocks of another size", "a is said to have blocks of 32 weights",
        lambda: of("nvfp4"), lambda: said({"a": {"format": "nvfp4", "group_size": 32}}),
    ),
    Damage(
        "blocks where there are none", "a is said to have blocks of 64 weights",
        fp8, lambda: said({"a": {"format": "float8_e4m3fn", "group_size": 64}}),
    ),
    Damage(
        "groups that its scales are not of", "a: weight_scale has the shape",
        lambda: of("int4_groups"), lambda: said({"a": {"format": "int4_groups", "group_size": 32}}),
    ),
    Damage(
        "groups of an odd number", "a: A group of 63 weights",
        lambda: of("int4_groups"), lambda: said({"a": {"format": "int4_groups", "group_size": 63}}),
    ),
    Damage(
        "groups that are true", "a is said to have blocks of True weights",
        lambda: of("int4_groups"), lambda: said({"a": {"format": "int4_groups", "group_size": True}}),
    ),
    Damage("a block's negative scale", NO_SCALES, lambda: block("nf4", -1.0), lambda: said({"a": "nf4"})),
    Damage("a block's scale of NaN, in a byte", NO_SCALES, lambda: block("nvfp4", 0x7F), lambda: said({"a": "nvfp4"})),
    Damage("a block's negative scale, in a byte", NO_SCALES, lambda: block("nvfp4", 0x90), lambda: said({"a": "nvfp4"})),
    Damage("a block's undefined exponent", NO_SCALES, lambda: block("mxfp8", 255), lambda: said({"a": "mxfp8"})),
    Damage(
        "no scale for the whole", "a lacks weight_scale_2",
        lambda: {name: one for name, one in of("nvfp4").items() if "_2" not in name}, lambda: said({"a": "nvfp4"}),
    ),
    Damage(
        "matrices' format on a convolution", "a has the shape [32, 8, 3, 3], which nvfp4 does not hold",
        lambda: of("nvfp4") | {"a.weight": torch.zeros(32, 8, 3, 3, dtype=torch.uint8)}, lambda: said({"a": "nvfp4"}),
    ),
    Damage(
        "matrices' format on what was a convolution", "a has the shape [32, 4, 4, 4], which nvfp4 does not hold",
        lambda: of("nvfp4"), lambda: said({"a": {"format": "nvfp4", "orig_shape": [32, 4, 4, 4]}}),
    ),
    Damage(
        "a shape beyond all memory", "a is said to have the shape",
        lambda: of("nf4"), lambda: said({"a": {"format": "nf4", "orig_shape": [10**9, 10**12]}}),
    ),
    Damage(
        "a shape that its numbers do not have", "a: weight_scale has the shape [32, 1] instead of [32, 3]",
        lambda: of("nf4"), lambda: said({"a": {"format": "nf4", "orig_shape": [32, 192]}}),
    ),
    Damage(
        "a shape with nothing in it", "a is said to have the shape [0, 64]",
        lambda: of("nf4"), lambda: said({"a": {"format": "nf4", "orig_shape": [0, 64]}}),
    ),
    Damage(
        "a flag that is a text", "a: full_precision_matrix_mult is 'no'",
        fp8, lambda: said({"a": {"format": "float8_e4m3fn", "full_precision_matrix_mult": "no"}}),
    ),
    Damage(
        "activations of another kind", "a: activations are said to be 'sometimes'",
        fp8, lambda: said({"a": {"format": "float8_e4m3fn", "activations": "sometimes"}}),
    ),
    Damage("a mark that is not JSON", "a.comfy_quant is not JSON", lambda: fp8(comfy_quant=text(b"\xff{}"))),
    Damage("a mark of floats", "a.comfy_quant is no text", lambda: fp8(comfy_quant=torch.zeros(4))),
    Damage("a mark without a weight", "no weight of the layer 'b'", lambda: {"b.comfy_quant": text({"format": "nvfp4"})}),
    Damage(
        "a mark against the metadata", "two things of a.weight",
        lambda: fp8(comfy_quant=text({"format": "float8_e4m3fn", "full_precision_matrix_mult": True})), lambda: said(FP8),
    ),
    Damage(
        "an older mark of another dtype", "The marker scaled_fp8 has the dtype torch.int32",
        lambda: {"scaled_fp8": torch.zeros(1, dtype=torch.int32)},
    ),
    Damage("an older scale of nothing", "b.scale_weight scales nothing", lambda: {"b.scale_weight": torch.ones(())}),
    Damage(
        "an older scale of floats", "a.scale_weight scales torch.float32",
        lambda: {"a.weight": gaussian(4, 4), "a.scale_weight": torch.tensor(2.0)},
    ),
    Damage(
        "an older scale below zero", NO_SCALES,
        lambda: {"a.weight": of("float8_e4m3fn")["a.weight"], "a.scale_weight": torch.tensor(-2.0)},
    ),
    Damage("a scale of nothing", "b.weight_scale scales nothing", lambda: {"b.weight_scale": torch.ones(())}),
    Damage(
        "bytes of which nothing is said", "a.weight is quantized, but the file does not say how",
        lambda: {"a.weight": torch.zeros(8, 8, dtype=torch.uint8), "a.weight_scale": torch.ones(8)},
    ),
    Damage("bitsandbytes' own values", "a.weight has values of its own", nf4_of_bitsandbytes),
    Damage("bitsandbytes' shape of more", "a.weight is said to have the shape", lambda: nf4_of_bitsandbytes(shape=[64, 64])),
    Damage("bitsandbytes' blocks of three", "a.weight has blocks of 3", lambda: nf4_of_bitsandbytes(blocksize=3)),
    Damage(
        "bitsandbytes' other type", "a.weight is in bitsandbytes' fp4",
        lambda: {name.replace("__nf4", "__fp4"): one for name, one in nf4_of_bitsandbytes().items()},
    ),
    Damage(
        "torchao's class that is not read", "a.weight is torchao's Int4Tensor",
        lambda: {"a._weight_qdata": torch.zeros(4, 4, dtype=torch.int8)},
        lambda: {"tensor_names": '["a.weight"]', "a.weight": '{"_type": "Int4Tensor", "_data": {}}'},
    ),
    Damage(
        "torchao's weight without its scale", "no tensor a._weight_scale",
        lambda: {"a._weight_qdata": torch.zeros(4, 4, dtype=torch.int8)},
        lambda: {"tensor_names": '["a.weight"]', "a.weight": '{"_type": "Int8Tensor", "_data": {}}'},
    ),
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.title)
def test_it_is_refused_by_name_before_a_weight_is_read(damage: Damage, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "bad.safetensors"
    save(path, damage.tensors(), damage.metadata())
    reading = MappedFile.tensor

    def small(self: MappedFile, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        assert shape != (32, 64), "a weight was read"
        return reading(self, offset, dtype, shape)

    monkeypatch.setattr(MappedFile, "tensor", small)
    with pytest.raises(LimnerError) as caught:
        quantized(CheckpointHeader.read(path))
    assert damage.message in caught.value.what
    assert "bad.safetensors" in caught.value.what
    assert caught.value.why


@pytest.mark.parametrize("cut", [1, 1000, 2040])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "bad.safetensors"
    save(path, fp8(), said(FP8))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(LimnerError, match=r"bad\.safetensors is not a usable safetensors file"):
        quantized(CheckpointHeader.read(path))


def test_a_scale_that_is_large_is_looked_at_when_it_is_read(tmp_path: Path, monkeypatch) -> None:
    from limner.weights.quant import files

    monkeypatch.setattr(files, "CHECKED", 64)
    save(tmp_path / "bad.safetensors", block("nf4", NAN), said({"a": "nf4"}))
    header = quantized(CheckpointHeader.read(tmp_path / "bad.safetensors"))
    with pytest.raises(LimnerError, match=r"bad\.safetensors: a: weight_scale holds numbers that are no scales"):
        header.tensor("a.weight")
