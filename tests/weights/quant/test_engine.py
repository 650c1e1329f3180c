"""Quantized weights in the engine's other places: joined, cut, merged, in text encoders and autoencoders, measured."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from limner.memory.streaming import Streamer
from limner.memory.units import Target
from limner.models.load import load_checkpoint, load_diffusion_model
from limner.models.load_text import load_clip
from limner.models.load_vae import load_vae
from limner.models.merging import combine, merge_models
from limner.models.model import Model
from limner.models.saving import save_vae
from limner.weights import CheckpointHeader, LazyTensor, NetworkSource, Patch, Patches, ops, save
from limner.weights.adapters.plain import Difference
from limner.weights.lazy import PackedTensor
from limner.weights.quant import QuantizedTensor, counting_fallbacks, quantize, sqnr
from limner.weights.quant.files import packed_entries, quantized
from limner.weights.targets import Part, renamed
from tests.memory.double import FakeAccelerator
from tests.memory.matrix import FAMILIES, device
from tests.models.checkpoints import checkpoint, memory, tensors
from tests.models.checkpoints import metadata as said
from tests.models.make import tiny_flux
from tests.models.test_flux import CONFIG, in_diffusers_names, inputs
from tests.models.test_text_encoders import text_files
from tests.weights.quant.make import example, gaussian

PREFIX = "model.diffusion_model."


def packed(source: object) -> dict[str, PackedTensor]:
    """The quantized weights of a model's source."""
    entries: dict[str, LazyTensor] = source.tensors  # type: ignore[attr-defined]
    return {name: one for name, one in entries.items() if isinstance(one, PackedTensor)}


def in_layout(contents: dict[str, Tensor], layout: str, prefix: str = "") -> dict[str, Tensor]:
    """The same, every weight of more than one axis under a prefix in a layout."""
    return {
        name: quantize(one.contiguous(), layout)
        if name.startswith(prefix) and name.endswith(".weight") and one.ndim > 1
        else one.contiguous()
        for name, one in contents.items()
    }


# -- joined and cut ---------------------------------------------------------------------------------------------------

JOINED = {f"{part}.weight": Part("qkv.weight", 32 * place, 32) for place, part in enumerate("qkv")}


def separate(layout: str, **options: object) -> tuple[CheckpointHeader, Tensor]:
    """q, k and v as a file has them, told as one; and what they stand for together."""
    parts = [quantize(gaussian(32, 64, seed=place) * (1 + place), layout, **options) for place in range(3)]
    header = CheckpointHeader.of({f"{part}.weight": one for part, one in zip("qkv", parts, strict=True)})
    return renamed(header, JOINED), torch.cat([one.dequantize() for one in parts])


@pytest.mark.parametrize(
    ("layout", "becomes"),
    [
        ("float8_e4m3fn", "float8_e4m3fn_rowwise"),
        ("float8_e5m2", "float8_e5m2_rowwise"),
        ("int8_tensorwise", "int8_rowwise"),
        ("int8_dynamic", "int8_dynamic"),
        ("nf4", "nf4"),
        ("mxfp8", "mxfp8"),
        ("gguf_q8_0", "gguf_q8_0"),
    ],
)
def test_parts_of_a_weight_are_joined_without_being_dequantized(layout: str, becomes: str) -> None:
    header, exact = separate(layout)
    entry = header.tensors["qkv.weight"]
    assert isinstance(entry, PackedTensor)
    assert entry.layout == becomes
    with counting_fallbacks() as fallbacks:
        found = entry.read()
    assert not fallbacks.counts
    assert isinstance(found, QuantizedTensor)
    assert found.packing.name == becomes
    assert found.nbytes == entry.nbytes
    assert torch.equal(found.dequantize(), exact)


def test_a_joined_weight_takes_the_largest_of_its_parts_scales_of_inputs() -> None:
    parts = [quantize(gaussian(32, 64), "float8_e4m3fn", input_scale=scale) for scale in (0.1, 0.4, 0.2)]
    found = torch.cat(parts)
    assert found.parts.tensors["input_scale"] == torch.tensor(0.4)
    assert torch.equal(found.dequantize(), torch.cat([one.dequantize() for one in parts]))


def test_what_cannot_be_joined_packed_is_told_as_what_it_is() -> None:
    header, exact = separate("nvfp4")  # each has a scale for the whole of it, and blocks have others
    entry = header.tensors["qkv.weight"]
    assert not isinstance(entry, PackedTensor)
    assert entry.nbytes == exact.nbytes
    assert torch.equal(entry.read(), exact)
    mixed = CheckpointHeader.of({"q.weight": quantize(gaussian(32, 64), "nf4"), "k.weight": gaussian(32, 64)})
    both = {name: JOINED[name] for name in mixed}
    entry = renamed(mixed, both).tensors["qkv.weight"]
    assert not isinstance(entry, PackedTensor)
    assert not isinstance(entry.read(), QuantizedTensor)


def test_derived_tensors_stay_packed_where_the_layout_allows_it() -> None:
    weight = quantize(gaussian(32, 128), "mxfp8")
    entry, dense = LazyTensor.of(weight), weight.dequantize()
    for found, want, stays in (
        (entry.narrow(8, 4), dense[8:12], True),
        (entry.transpose(), dense.t(), True),
        (entry.swapped(), dense.roll(16, 0), True),
        (entry.reshape(32, 2, 64), dense.reshape(32, 2, 64), True),
        (entry.reshape(64, 64), dense.reshape(64, 64), False),
    ):
        assert isinstance(found, PackedTensor) == stays == isinstance(found.read(), QuantizedTensor)
        value = found.read()
        assert torch.equal(value.dequantize() if isinstance(value, QuantizedTensor) else value, want)
        assert found.shape == tuple(want.shape)


@pytest.mark.parametrize("layout", ["int4_groups", "nf4", "mxfp8", "nvfp4", "gguf_q8_0", "gguf_q4_0"])
def test_columns_are_cut_between_blocks(layout: str) -> None:
    weight = quantize(gaussian(16, 256), layout)
    with counting_fallbacks() as fallbacks:
        for cut in (slice(0, 64), slice(64, 256), slice(128, 192)):
            found = weight[:, cut]
            assert isinstance(found, QuantizedTensor)
            assert torch.equal(found.dequantize(), weight.dequantize()[:, cut])
        assert not fallbacks.counts
        assert torch.equal(weight[:, 3:70], weight.dequantize()[:, 3:70])
    assert fallbacks.counts


def test_a_file_in_diffusers_names_stays_packed_and_is_the_same_network(tmp_path: Path) -> None:
    theirs = in_layout(in_diffusers_names(tiny_flux().state_dict()), "float8_e4m3fn")
    dense = {name: one.dequantize() if isinstance(one, QuantizedTensor) else one for name, one in theirs.items()}
    found = []
    for number, contents in enumerate((theirs, dense)):
        save(tmp_path / f"{number}.safetensors", contents, CONFIG)
        model = load_diffusion_model(tmp_path / f"{number}.safetensors", memory())
        with torch.inference_mode(), model.loaded() as network:
            found.append(network(**inputs()))
        if not number:
            layouts = {name: one.layout for name, one in packed(model.source).items()}
            matrices = {name for name, one in model.source.tensors.items() if len(one.shape) > 1}
    assert layouts.keys() == matrices
    assert layouts["double_blocks.0.img_attn.qkv.weight"] == "float8_e4m3fn_rowwise"
    assert layouts["img_in.weight"] == "float8_e4m3fn"
    assert sqnr(found[1], found[0]) > 40  # the scales' dtype is bfloat16 in one of them


# -- merged -----------------------------------------------------------------------------------------------------------


def models(tmp_path: Path) -> tuple[Model, Model]:
    """A quantized model and another one in another layout."""
    made = []
    for number, layout in enumerate(("int8_rowwise", "float8_e4m3fn")):
        contents = tensors()
        if number:
            contents = {name: one * 1.5 if one.ndim > 1 else one for name, one in contents.items()}
        path = checkpoint(tmp_path, in_layout(contents, layout, PREFIX), f"{number}.safetensors")
        made.append(load_checkpoint(path, memory()).model)
    return made[0], made[1]


def test_models_are_merged_by_what_their_weights_stand_for(tmp_path: Path) -> None:
    one, other = models(tmp_path)
    exact = {name: [each.source.patched(name).float() for each in (one, other)] for name in packed(one.source)}
    for merged, weights in (
        (merge_models(one, other, lambda name: 0.25), (0.25, 0.75)),
        (combine(one, other, 0.5, 1.0), (1.0, 0.5)),
    ):
        for name, (first, second) in exact.items():
            want = first * weights[0] + second * weights[1]
            assert torch.allclose(merged.source.patched(name), want, atol=1e-4), name
            kept = merged.source.kept(name)
            assert isinstance(kept, QuantizedTensor)
            assert kept.packing.name == "int8_rowwise"
            assert sqnr(want, kept.dequantize()) > 35
        with merged.loaded() as network:
            weight = network.get_parameter(name)
            assert isinstance(weight, QuantizedTensor)
            assert torch.equal(weight.dequantize(), merged.source.kept(name).to(weight.dtype).dequantize())


def test_a_layout_that_is_only_read_is_dense_once_it_is_patched() -> None:
    header = CheckpointHeader.of({"0.weight": example("gguf_q4_k", 32, 256)})
    source = NetworkSource("network", lambda: nn.Sequential(ops.Linear(256, 32, bias=False)), header.tensors, "x")
    plain = source.load(torch.device("cpu"), torch.float32)
    patch = Patch("0.weight", Difference("d", torch.ones(32, 256)), 0.5)
    changed = source.with_patches(Patches((patch,))).load(torch.device("cpu"), torch.float32)
    assert isinstance(plain[0].weight, QuantizedTensor)
    assert not isinstance(changed[0].weight, QuantizedTensor)
    assert torch.allclose(changed[0].weight, plain[0].weight.dequantize() + 0.5)
    x = gaussian(2, 256)
    for patches, want in ((Patches(), plain), (Patches((patch,)), changed)):
        with FakeAccelerator() as fake:
            streamer = Streamer(fake, fake.device)
            one = source.with_patches(patches).place(Target(fake.device, None, torch.float32, False, streamer))
            found = one.network(x.to(fake.device)).cpu()
            assert streamer.nbytes == 2 * one.units[0].streamed
            assert not fake.races
        assert torch.allclose(found, want(x), rtol=1e-2, atol=1e-2)  # kept in the file's bfloat16 here


# -- text encoders and autoencoders -----------------------------------------------------------------------------------


def older_form(contents: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every matrix of a text encoder in scaled eight-bit floats."""
    found: dict[str, Tensor] = {"scaled_fp8": torch.zeros(0).to(torch.float8_e4m3fn)}
    for name, one in contents.items():
        found[name] = one
        if one.ndim == 2 and ".layer." in name and "relative" not in name:
            scale = one.float().abs().max() / 448
            found[name] = (one.float() / scale).to(torch.float8_e4m3fn)
            found[name.removesuffix(".weight") + ".scale_weight"] = scale
    return found


def in_band(contents: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every matrix of a CLIP in int8 by rows, said beside it; the table of tokens among them."""
    return in_layout(contents, "int8_rowwise")


@pytest.mark.parametrize("novram", [False, True])
def test_quantized_text_encoders_encode_what_they_stand_for(tmp_path: Path, novram: bool) -> None:
    files = text_files(tmp_path)
    plain = load_clip([files["l"], files["t5"]], "flux", memory())
    for name, change in (("t5", older_form), ("l", in_band)):
        header = CheckpointHeader.read(files[name])
        contents = {key: header.tensor(key).clone() for key in header}
        files[name] = tmp_path / f"quantized_{name}.safetensors"
        save(files[name], change(contents), header.metadata)
    clip = load_clip([files["l"], files["t5"]], "flux", memory(novram=novram))
    layouts = {one.layout for one in packed(clip.source).values()}
    assert layouts == {"float8_e4m3fn", "int8_rowwise"}
    assert all(one.nbytes < 0.6 * plain.source.tensors[name].nbytes for name, one in packed(clip.source).items())
    for one, other in zip(
        clip.encode_from_tokens(clip.tokenize("a fox"), return_pooled=True),
        plain.encode_from_tokens(plain.tokenize("a fox"), return_pooled=True),
        strict=True,
    ):
        assert 20 < sqnr(other, one) < 100


@pytest.mark.parametrize("layout", ["int8_rowwise", "float8_e4m3fn", "int8_dynamic"])
def test_a_quantized_autoencoder_decodes_encodes_and_is_saved(tmp_path: Path, layout: str) -> None:
    prefix = "first_stage_model."
    contents = {name.removeprefix(prefix): one for name, one in tensors().items() if name.startswith(prefix)}
    config = {"config": json.dumps({"vae": json.loads(said()["config"])["vae"]})}
    found = []
    for number, one in enumerate((contents, in_layout(contents, layout))):
        save(tmp_path / f"{number}.safetensors", one, config)
        vae = load_vae(tmp_path / f"{number}.safetensors", memory())
        latent = vae.encode(torch.linspace(0, 1, 16 * 16 * 3).reshape(1, 16, 16, 3))
        found.append((latent, vae.decode(gaussian(1, 4, 4, 4))))
    assert {one.layout for one in packed(vae.source).values()} == {layout}
    assert any(len(one.shape) == 4 for one in packed(vae.source).values())
    for exact, near in zip(*found, strict=True):
        assert 20 < sqnr(exact, near) < 100
    save_vae(tmp_path / "again.safetensors", vae, {})
    assert torch.equal(load_vae(tmp_path / "again.safetensors", memory()).decode(gaussian(1, 4, 4, 4)), found[1][1])


# -- what the file says comes before what is wished -------------------------------------------------------------------


@pytest.mark.parametrize("wish", ["flag", "loader"])
def test_q17_eight_bits_that_are_asked_for_do_not_beat_what_a_file_says(tmp_path: Path, wish: str) -> None:
    layer = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    contents = tensors()
    contents[f"{PREFIX}{layer}.weight"] = quantize(contents[f"{PREFIX}{layer}.weight"], "int8_rowwise")
    path = checkpoint(tmp_path, contents)
    manager = memory(fp8_e4m3fn_unet=True) if wish == "flag" else memory()
    model = load_checkpoint(path, manager).model
    if wish == "loader":
        model.weight_dtype = torch.float8_e4m3fn
    with model.loaded() as network:
        weight = network.get_parameter(f"{layer}.weight")
        assert isinstance(weight, QuantizedTensor)
        assert weight.packing.name == "int8_rowwise"
        others = {one.dtype for one in network.parameters() if not isinstance(one, QuantizedTensor)}
    assert others == {torch.float32}  # the file kept them precise, and says so
    assert model.size == sum(one.nbytes for one in model.source.tensors.values())
    assert model.model.model_config.layer_quant_config == {layer: {"format": "int8_rowwise"}}


def test_q15_patched_and_streamed_it_is_multiplied_as_at_rest(tmp_path: Path) -> None:
    family = FAMILIES["qwen_image"]
    contents = in_layout(family.part.tensors(), "float8_e4m3fn")
    save(tmp_path / "x.safetensors", contents, {"config": json.dumps({"unet": family.part.config})})
    entries = dict(packed_entries(quantized(CheckpointHeader.read(tmp_path / "x.safetensors"))))
    with device(True, 1 << 40) as manager:
        model = load_diffusion_model(tmp_path / "x.safetensors", manager)
        name = next(iter(entries))
        model.add_patches({model.source.prefix + name: Difference("d", gaussian(*entries[name].shape))}, 0.1)
        with model.loaded() as network:
            weight = network.get_parameter(name)
            assert isinstance(weight, QuantizedTensor)
            assert weight.device.type == manager.device.type
            assert weight.packing.name == "float8_e4m3fn"
            assert weight.nbytes == entries[name].nbytes
