"""Quantized files: what they say, each form of it, and what is written again."""

import json

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from limner.errors import BadInput
from limner.memory import backends
from limner.memory.streaming import Streamer
from limner.memory.units import Target
from limner.models.load import load_checkpoint
from limner.weights import CheckpointHeader, NetworkSource, Patch, Patches, save
from limner.weights.adapters.plain import Difference
from limner.weights.lazy import PackedTensor
from limner.weights.quant import QuantizedTensor, computing, quantize, sqnr
from limner.weights.quant.files import known_forms, quantized
from limner.weights.quant.form import Form
from limner.weights.quant.layouts.nf4 import VALUES
from tests.models.checkpoints import checkpoint, memory, tensors
from tests.weights.quant.checker import FORMATS, Checked
from tests.weights.quant.make import WRITTEN, gaussian

KEY = "_quantization_metadata"
CPU = torch.device("cpu")
PREFIX = "model.diffusion_model."


def metadata(**layers: object) -> dict[str, str]:
    return {KEY: json.dumps({"format_version": "1.0", "layers": layers})}


def eight_bits(scale: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """A float32 weight that eight bits hold exactly, and the file of it."""
    numbers = gaussian(32, 64).to(torch.float8_e4m3fn)
    scale = torch.tensor(0.25) if scale is None else scale
    return numbers.float() * scale, {"a.weight": numbers, "a.weight_scale": scale}


def text(said: object) -> Tensor:
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)


def read(path, contents: dict[str, Tensor], said: dict[str, str] | None = None) -> CheckpointHeader:
    save(path / "x.safetensors", contents, said)
    return quantized(CheckpointHeader.read(path / "x.safetensors"))


def dense(header: CheckpointHeader, name: str = "a.weight") -> Tensor:
    found = header.tensor(name)
    assert isinstance(found, QuantizedTensor)
    assert found.shape == header.shape(name)
    assert found.dtype == header.dtype(name)
    return found.dequantize().float()


# -- Q13 … Q18: networks of layers in different precision -----------------------------------------------------------


def in_layouts(path, name: str, layouts: dict[str, str]):
    """A tiny checkpoint, some of its layers quantized, loaded by the ordinary loader: (network's layers, model)."""
    contents = tensors()
    for layer, layout in layouts.items():
        contents[f"{PREFIX}{layer}.weight"] = quantize(contents[f"{PREFIX}{layer}.weight"], layout)
    return load_checkpoint(checkpoint(path, contents, name), memory()).model


MIXED = {
    "input_blocks.1.0.in_layers.2": "int8_rowwise",
    "input_blocks.1.1.transformer_blocks.0.attn1.to_q": "float8_e4m3fn",
    "middle_block.0.out_layers.3": "nf4",
    "output_blocks.0.1.transformer_blocks.0.ff.net.2": "int4_groups",
}
INPUTS = (gaussian(1, 4, 8, 8), torch.tensor([500.0]), gaussian(1, 5, 6, seed=1))


def forward(network) -> Tensor:
    with torch.inference_mode():
        return network(INPUTS[0], INPUTS[1], context=INPUTS[2])


def test_q13_two_models_of_different_layouts_do_not_know_of_each_other(tmp_path) -> None:
    one = in_layouts(tmp_path, "one.safetensors", MIXED)
    other = in_layouts(tmp_path, "two.safetensors", dict.fromkeys(MIXED, "int8_dynamic"))
    networks = [model.source.load(CPU, torch.float32) for model in (one, other)]
    alone = [forward(network) for network in networks]
    assert not torch.equal(*alone)
    for _ in range(2):
        for network, expected in zip(networks, alone, strict=True):
            assert torch.equal(forward(network), expected)
    assert not any(name for kind in {type(m) for m in networks[0].modules()} for name in vars(kind) if "quant" in name)


def test_q14_layers_that_are_not_named_are_plain(tmp_path) -> None:
    model = load_checkpoint(checkpoint(tmp_path), memory()).model
    network = model.source.load(CPU, torch.float32)
    assert not any(isinstance(one, QuantizedTensor) for one in network.parameters())


def test_q14_each_layer_is_as_the_file_says(tmp_path) -> None:
    network = in_layouts(tmp_path, "x.safetensors", MIXED).source.load(CPU, torch.float32)
    found = {
        name.removesuffix(".weight"): one.packing.name
        for name, one in network.named_parameters()
        if isinstance(one, QuantizedTensor)
    }
    assert found == MIXED
    plain = load_checkpoint(checkpoint(tmp_path, name="plain.safetensors"), memory()).model
    assert F.cosine_similarity(forward(network).flatten(), forward(plain.source.load(CPU, None)).flatten(), 0) > 0.99


def test_q14_a_state_dict_keeps_them_quantized(tmp_path) -> None:
    network = in_layouts(tmp_path, "x.safetensors", MIXED).source.load(CPU, torch.float32)
    state = network.state_dict()
    kept = {name for name, one in state.items() if isinstance(one, QuantizedTensor)}
    assert kept == {f"{name}.weight" for name in MIXED}
    save(tmp_path / "again.safetensors", {PREFIX + name: one for name, one in state.items()})
    header = quantized(CheckpointHeader.read(tmp_path / "again.safetensors"))
    assert {name for name, entry in header.tensors.items() if isinstance(entry, PackedTensor)} == {
        PREFIX + name for name in kept
    }
    assert all(
        torch.equal(header.tensor(PREFIX + name).dequantize(), state[name].bfloat16().dequantize()) for name in kept
    )


def test_q14_a_patch_changes_what_a_quantized_weight_stands_for(tmp_path) -> None:
    source = in_layouts(tmp_path, "x.safetensors", MIXED).source
    name = "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    change = gaussian(*source.tensors[name].shape)
    patched = source.with_patches(Patches((Patch(source.prefix + name, Difference("d", change), 0.5),)))
    found = patched.load(CPU, torch.float32).get_parameter(name)
    exact = source.tensors[name].read().dequantize().float() + 0.5 * change
    assert isinstance(found, QuantizedTensor)
    assert found.packing.name == MIXED[name.removesuffix(".weight")]
    assert sqnr(exact, found.dequantize()) > 28  # rounded at random: 3 dB more noise than to the nearest
    assert torch.equal(found._qdata.float(), patched.kept(name)._qdata.float())  # type: ignore[attr-defined]


@pytest.mark.parametrize("said", [{"group_size": 16}, {}])
def test_q14_a_layer_without_a_format_is_refused(said: dict) -> None:
    _, contents = eight_bits()
    with pytest.raises(BadInput, match="a has an unknown quantization format"):
        quantized(CheckpointHeader.of(contents, metadata(a=said)))


def test_q14_an_unknown_format_is_refused_with_the_nearest() -> None:
    _, contents = eight_bits()
    with pytest.raises(BadInput, match=r"unknown quantization format 'float8_e4m3'.*float8_e4m3fn"):
        quantized(CheckpointHeader.of(contents, metadata(a="float8_e4m3")))


def layer_of(header: CheckpointHeader, resident: bool) -> torch.nn.Module:
    from limner.weights import ops

    def build():
        return torch.nn.Sequential(ops.Linear(64, 32, bias=False))

    names = {"0.weight": header.tensors["a.weight"]}
    placed = NetworkSource("network", build, names, header.identity).place(
        Target(CPU, torch.float32, torch.float32, False, Streamer(backends.of(CPU), CPU))
    )
    placed.bring(range(len(placed.units)) if resident else ())
    return placed.network


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("inputs", ["static", "dynamic", "none"])
def test_q15_inputs_are_rounded_as_the_file_says_wherever_the_weight_is(
    tmp_path, monkeypatch, resident: bool, inputs: str
) -> None:
    calls: list[float] = []

    def product(x, weight, *, scale_a, scale_b, out_dtype):
        calls.append(float(scale_a))
        return ((x.float() * scale_a) @ (weight.float() * scale_b)).to(out_dtype)

    monkeypatch.setattr(torch, "_scaled_mm", product)
    exact, contents = eight_bits()
    if inputs == "static":
        contents["a.input_scale"] = torch.tensor(0.125)
    said = {"format": "float8_e4m3fn"} | ({"activations": "dynamic"} if inputs == "dynamic" else {})
    network = layer_of(read(tmp_path, contents, metadata(a=said)), resident)
    x = gaussian(16, 64, seed=2)
    with torch.inference_mode(), computing(fp8=True):
        found = network(x)
    assert F.cosine_similarity(found.flatten(), F.linear(x, exact).flatten(), 0) > 0.999
    expected = {"static": [0.125], "dynamic": [float(x.abs().max() / 448)], "none": []}[inputs]
    assert calls == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_q16_what_flows_in_decides_in_what_is_computed(tmp_path, dtype: torch.dtype) -> None:
    exact, contents = eight_bits()
    header = read(tmp_path, contents, metadata(a="float8_e4m3fn"))
    network = layer_of(header, True)
    x = gaussian(4, 64, seed=1).to(dtype)
    found = network(x)
    assert found.dtype == dtype
    assert torch.allclose(found.float(), F.linear(x.float(), exact), rtol=0.02, atol=0.3)
    weight = network[0].weight
    assert isinstance(weight, QuantizedTensor)
    assert weight._qdata.dtype == torch.float8_e4m3fn


def test_q17_what_a_file_says_of_a_layer_comes_before_what_its_names_say(tmp_path) -> None:
    _, contents = eight_bits()
    contents |= {"b.weight": contents["a.weight"].clone(), "b.scale_weight": torch.tensor(2.0)}
    contents |= {"c.weight": contents["a.weight"].clone(), "c.weight_scale": torch.tensor(3.0)}
    contents["scaled_fp8"] = torch.zeros(2)
    header = read(tmp_path, contents, metadata(a={"format": "float8_e4m3fn", "activations": "dynamic"}))
    plain = {name: header.tensor(f"{name}.weight").parts.plain for name in "abc"}
    assert plain == {"a": {"activations": "dynamic"}, "b": {"full_precision": True}, "c": {}}
    raw = contents["a.weight"].float()
    assert all(
        torch.equal(dense(header, f"{name}.weight"), raw * scale)
        for name, scale in zip("abc", (0.25, 2, 3), strict=True)
    )


def test_q18_without_float8_products_the_weight_is_dequantized(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch, "_scaled_mm", lambda *_, **__: pytest.fail("was called"))
    exact, contents = eight_bits()
    contents["a.input_scale"] = torch.tensor(0.125)
    network = layer_of(read(tmp_path, contents, metadata(a="float8_e4m3fn")), True)
    x = gaussian(3, 64)
    assert torch.allclose(network(x), F.linear(x, exact), atol=1e-3)


# -- Q19 … Q27: files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "int8_tensorwise", "mxfp8", "nvfp4"])
def test_q19_a_container_of_bytes_is_seen_as_what_it_holds(tmp_path, name: str) -> None:
    save(tmp_path / "own.safetensors", {"a.weight": quantize(gaussian(32, 64), name)})
    own = CheckpointHeader.read(tmp_path / "own.safetensors")
    contents = {key: own.tensor(key) for key in own}
    contents["a.weight"] = contents["a.weight"].view(torch.uint8)
    assert torch.equal(dense(read(tmp_path, contents, dict(own.metadata))), dense(quantized(own)))


def test_q20_every_name_beside_a_weight_is_its_own(tmp_path) -> None:
    weight = quantize(gaussian(32, 64), "nvfp4", input_scale=0.5, pre_quant_scale=torch.full((64,), 2.0))
    save(tmp_path / "x.safetensors", {"a.weight": weight})
    raw = CheckpointHeader.read(tmp_path / "x.safetensors")
    beside = {"weight_scale", "weight_scale_2", "pre_quant_scale", "input_scale"}
    assert set(raw) == {"a.weight", *(f"a.{name}" for name in beside)}
    header = quantized(raw)
    assert set(header) == {"a.weight"}
    again = header.tensor("a.weight").parts
    assert set(again.tensors) == {"scale", "global_scale", "pre_quant_scale", "input_scale"}
    assert torch.equal(dense(header), weight.to(torch.bfloat16).dequantize().float())


@pytest.mark.parametrize("shape", [(), (1,)])
def test_q21_a_scalar_scale_may_be_a_list_of_one(tmp_path, shape: tuple[int, ...]) -> None:
    exact, contents = eight_bits(torch.full(shape, 0.25))
    assert torch.equal(dense(read(tmp_path, contents, metadata(a="float8_e4m3fn"))), exact)


def test_q22_the_metadata_is_spent_when_it_is_read_and_written_again(tmp_path) -> None:
    _, contents = eight_bits()
    header = read(tmp_path, contents, {**metadata(a="float8_e4m3fn"), "other": "kept"})
    assert header.metadata == {"other": "kept"}
    save(tmp_path / "y.safetensors", {name: header.tensor(name) for name in header}, header.metadata)
    again = CheckpointHeader.read(tmp_path / "y.safetensors").metadata
    assert json.loads(again[KEY]) == {"format_version": "1.0", "layers": {"a": {"format": "float8_e4m3fn"}}}
    assert again["other"] == "kept"


def test_q23_a_text_and_an_object_say_the_same(tmp_path) -> None:
    exact, contents = eight_bits()
    said = ("float8_e4m3fn", {"format": "float8_e4m3fn"}, {"format": "float8_e4m3fn", "group_size": None})
    assert all(torch.equal(dense(read(tmp_path, contents, metadata(a=one))), exact) for one in said)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "net.", "model.model."])
@pytest.mark.parametrize("full", [False, True])
def test_q24_layers_are_named_inside_the_diffusion_model_or_in_full(tmp_path, prefix: str, full: bool) -> None:
    exact, contents = eight_bits()
    contents = {prefix + name: one for name, one in contents.items()}
    header = read(tmp_path, contents, metadata(**{(prefix if full else "") + "a": "float8_e4m3fn"}))
    assert torch.equal(dense(header, prefix + "a.weight"), exact)
    assert set(header.select(prefix)) == {"a.weight"}


def test_q25_a_tensor_beside_the_weight_says_it_too(tmp_path) -> None:
    exact, contents = eight_bits()
    contents["a.comfy_quant"] = text({"format": "float8_e4m3fn", "full_precision_matrix_mult": True})
    header = read(tmp_path, contents)
    assert torch.equal(dense(header), exact)
    assert header.tensor("a.weight").parts.plain == {"full_precision": True}
    assert set(header) == {"a.weight"}


def test_q25_what_is_outside_the_diffusion_model_is_written_so(tmp_path) -> None:
    weight = quantize(gaussian(32, 64), "int8_tensorwise", full_precision=True)
    save(tmp_path / "x.safetensors", {f"{PREFIX}a.weight": weight, "text.b.weight": weight})
    raw = CheckpointHeader.read(tmp_path / "x.safetensors")
    said = {"format": "int8_tensorwise", "full_precision_matrix_mult": True}
    assert json.loads(raw.metadata[KEY])["layers"] == {"a": said}
    assert json.loads(bytes(raw.tensor("text.b.comfy_quant").tolist())) == said
    assert raw.dtype("text.b.comfy_quant") == torch.uint8


def test_q25_both_may_say_the_same_but_not_different_things(tmp_path) -> None:
    _, contents = eight_bits()
    contents["a.comfy_quant"] = text({"format": "float8_e4m3fn"})
    assert set(read(tmp_path, contents, metadata(a="float8_e4m3fn"))) == {"a.weight"}
    with pytest.raises(BadInput, match=r"two things of a\.weight"):
        read(tmp_path, contents, metadata(a={"format": "float8_e4m3fn", "activations": "dynamic"}))


@pytest.mark.parametrize(
    ("marker", "numbers"),
    [
        (torch.float8_e4m3fn, torch.float8_e4m3fn),
        (torch.float8_e5m2, torch.float8_e5m2),
        (torch.float32, torch.float8_e4m3fn),
        (torch.float32, torch.uint8),
        (torch.float8_e5m2, torch.uint8),
    ],
)
@pytest.mark.parametrize("elements", [0, 1, 2])
def test_q26_the_older_form_is_the_same_weight(tmp_path, marker, numbers, elements: int) -> None:
    real = torch.float8_e5m2 if marker == torch.float8_e5m2 else torch.float8_e4m3fn
    weight = gaussian(32, 64).to(real)
    header = read(
        tmp_path,
        {
            "t5.a.weight": weight.view(numbers) if numbers == torch.uint8 else weight,
            "t5.a.scale_weight": torch.tensor(0.5),
            "t5.a.scale_input": torch.tensor(0.25),
            "t5.b.weight": weight,
            "t5.b.scale_weight": torch.tensor(0.5),
            "t5.b.scale_input": torch.tensor(1.0),
            "t5.scaled_fp8": torch.zeros(elements).to(marker),
        },
    )
    assert set(header) == {"t5.a.weight", "t5.b.weight"}
    assert torch.equal(dense(header, "t5.a.weight"), weight.float() * 0.5)
    one, other = (header.tensor(f"t5.{name}.weight").parts for name in "ab")
    assert one.tensors["input_scale"] == 0.25
    assert "input_scale" not in other.tensors
    assert one.plain.get("full_precision", False) is (elements == 2)


def test_q26_a_text_encoder_in_the_older_form_stays_in_eight_bits(tmp_path) -> None:
    contents = tensors()
    name = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1"
    weight = contents[name + ".weight"]
    contents |= {f"{name}.weight": (weight * 8).to(torch.float8_e4m3fn), f"{name}.scale_weight": torch.tensor(0.125)}
    contents["cond_stage_model.scaled_fp8"] = torch.zeros(0).to(torch.float8_e4m3fn)
    clip = load_checkpoint(checkpoint(tmp_path, contents), memory()).clip
    assert clip is not None
    found = [one for one in clip.source.tensors.values() if isinstance(one, PackedTensor)]
    assert [(one.shape, one.nbytes) for one in found] == [(tuple(weight.shape), weight.numel() + 4)]


@pytest.mark.parametrize("name", WRITTEN)
def test_q27_saved_loaded_and_saved_again_a_file_is_the_same_byte_by_byte(tmp_path, name: str) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    weight = quantize(gaussian(48, 256), name, input_scale=0.5, full_precision=True)
    contents = {
        f"{PREFIX}a.weight": weight,
        f"{PREFIX}a.bias": gaussian(48).half(),
        "te.b.weight": weight,
        "n": gaussian(3),
    }
    if not weight.packing.matrices_only:
        contents[f"{PREFIX}c.weight"] = quantize(gaussian(32, 64, 3, 3), name)
    save(first, contents, {"z": "1", "a": "2"})
    header = quantized(CheckpointHeader.read(first))
    assert header.shapes() == {key: tuple(one.shape) for key, one in contents.items()}
    save(second, {key: header.tensor(key) for key in header}, header.metadata)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", [name for name in FORMATS if name in WRITTEN])
def test_a_file_has_just_the_names_dtypes_and_header_that_the_guide_states(tmp_path, name: str) -> None:
    """Done when 5: held against the guide by a checker that shares nothing with what wrote it."""
    weight = quantize(gaussian(48, 250), name)
    contents = {f"{PREFIX}a.weight": weight, f"{PREFIX}a.bias": gaussian(48).half(), "te.b.weight": weight}
    if not weight.packing.matrices_only:
        contents[f"{PREFIX}c.weight"] = quantize(gaussian(32, 6, 3, 3), name)
    save(tmp_path / "x.safetensors", contents)
    checked = Checked(tmp_path / "x.safetensors")
    assert checked.wrong == []
    assert set(checked.layers) == {key.removesuffix(".weight") for key in contents if key.endswith("weight")}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"a.weight_scale": None}, "a.weight_scale is missing"),
        ({"a.weight_scale": torch.tensor(-1.0)}, "holds what is no scale"),
        ({"a.weight_scale": torch.ones(3)}, "has the shape"),
        ({"a.weight": torch.zeros(32, 64)}, "a.weight is F32"),
        ({"scaled_fp8": torch.zeros(1)}, "older form"),
        ({"b.input_scale": torch.zeros(1)}, "belongs to no quantized layer"),
        ({"b.weight": torch.zeros(4, dtype=torch.uint8)}, "nothing says why"),
    ],
)
def test_the_checker_sees_what_is_wrong(tmp_path, change: dict, sentence: str) -> None:
    _, contents = eight_bits()
    contents = {key: one for key, one in (contents | change).items() if one is not None}
    save(tmp_path / "x.safetensors", contents, metadata(a={"format": "float8_e4m3fn"}))
    assert any(sentence in one for one in Checked(tmp_path / "x.safetensors").wrong)


# -- Other libraries' forms ------------------------------------------------------------------------------------------


def test_every_file_of_the_folder_is_a_form() -> None:
    assert len(known_forms()) >= 6
    assert all(isinstance(form, Form) for form in known_forms())


@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e4m3fn_rowwise", "int8_tensorwise", "int8_rowwise", "nvfp4", "mxfp8"]
)
def test_modelopts_names_alone_tell_the_layout(tmp_path, name: str) -> None:
    weight = quantize(gaussian(32, 64), name, input_scale=0.5)
    contents = {f"a.{key}": one for key, one in weight.packing.to_file(weight.parts).items()}
    header = read(tmp_path, contents)
    assert header.tensor("a.weight").packing is weight.packing
    assert torch.equal(dense(header), weight.to(torch.bfloat16).dequantize().float())
    assert set(header) == {"a.weight"}


def bitsandbytes(nested: bool, block: int = 64) -> tuple[Tensor, dict[str, Tensor]]:
    """As that library packs: the tensor as one row, the first code in the high bits."""
    codes = torch.randint(0, 16, (32 * 128,), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    blocks = 32 * 128 // block
    said = {"quant_type": "nf4", "blocksize": block, "dtype": "float16", "shape": [32, 128]}
    contents = {
        "a.weight": ((codes[::2] << 4) | codes[1::2])[:, None],
        "a.weight.quant_map": torch.tensor(VALUES),
        "a.bias": gaussian(32).half(),
    }
    absmax = gaussian(blocks, seed=4).abs() + 0.5
    if nested:
        table, outer, inner = torch.linspace(-1, 1, 256), torch.tensor([0.5]), (absmax * 50).to(torch.uint8)
        contents |= {"a.weight.absmax": inner, "a.weight.nested_absmax": outer, "a.weight.nested_quant_map": table}
        said |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 1.25}
        absmax = table[inner.int()] * 0.5 + 1.25
    else:
        contents["a.weight.absmax"] = absmax
    contents["a.weight.quant_state.bitsandbytes__nf4"] = text(said)
    values = torch.tensor(VALUES)[codes.int()].reshape(blocks, block) * absmax[:, None]
    return values.reshape(32, 128), contents


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("block", [64, 128])
def test_bitsandbytes_nf4_stays_in_four_bits(tmp_path, nested: bool, block: int) -> None:
    exact, contents = bitsandbytes(nested, block)
    header = read(tmp_path, contents)
    assert set(header) == {"a.weight", "a.bias"}
    assert header.dtype("a.weight") == torch.float16
    assert header.tensor("a.weight").nbytes == 32 * 128 // 2 + 32 * 2 * 4
    assert torch.equal(dense(header), exact.half().float())


def test_bitsandbytes_int8_has_the_largest_of_each_row(tmp_path) -> None:
    numbers = torch.randint(-127, 128, (32, 64), generator=torch.Generator().manual_seed(1)).to(torch.int8)
    largest = gaussian(32).abs() + 1
    contents = {"a.weight": numbers, "a.SCB": largest, "a.weight_format": torch.zeros((), dtype=torch.uint8)}
    header = read(tmp_path, contents)
    assert set(header) == {"a.weight"}
    assert torch.allclose(dense(header), numbers.float() * largest[:, None] / 127, rtol=2**-8)


@pytest.mark.parametrize(("kind", "name"), [("Float8Tensor", "float8_e4m3fn"), ("Int8Tensor", "int8_tensorwise")])
@pytest.mark.parametrize("rows", [False, True])
def test_torchao_names_each_tensor_and_its_class(tmp_path, kind: str, name: str, rows: bool) -> None:
    layout = {"float8_e4m3fn": "float8_e4m3fn_rowwise", "int8_tensorwise": "int8_rowwise"}[name] if rows else name
    weight = quantize(gaussian(32, 64), layout)
    data = {"dtype": {"_type": "torch.dtype", "_data": "bfloat16"}, "act_quant_kwargs": {"_type": "X", "_data": {}}}
    said = {
        "tensor_names": json.dumps(["a.weight", "a.bias"]),
        "a.weight": json.dumps({"_type": kind, "_data": data, "_tensor_data_names": ["qdata", "scale"]}),
        "a.bias": json.dumps({"_type": "Tensor"}),
        "format": "pt",
    }
    scale = weight._layout_params["scale"]
    contents = {"a._weight_qdata": weight._qdata, "a._weight_scale": scale.reshape(-1, 1), "a.bias": gaussian(32)}
    header = read(tmp_path, contents, said)
    assert set(header) == {"a.weight", "a.bias"}
    assert header.metadata == {"format": "pt"}
    assert torch.equal(dense(header), weight.to(torch.bfloat16).dequantize().float())
    assert header.tensor("a.weight").parts.plain == {"activations": "dynamic"}


# -- What a quantized weight is among others -------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [torch.float16, torch.bfloat16, torch.float32])
def test_a_weight_stands_for_the_dtype_of_its_bias_where_that_has_sixteen_bits(tmp_path, bias: torch.dtype) -> None:
    _, contents = eight_bits()
    contents |= {"a.bias": gaussian(32).to(bias), "other": gaussian(2).half(), "more": gaussian(2).half()}
    found = read(tmp_path, contents, metadata(a="float8_e4m3fn")).dtype("a.weight")
    assert found == (torch.float16 if bias == torch.float32 else bias)


def test_a_weight_that_is_not_a_layers_or_the_other_way_round_is_saved_as_floats(tmp_path) -> None:
    weight = quantize(gaussian(32, 64), "int8_rowwise")
    save(tmp_path / "x.safetensors", {"table": weight, "a.weight": weight.t()})
    raw = CheckpointHeader.read(tmp_path / "x.safetensors")
    assert torch.equal(raw.tensor("table"), weight.dequantize())
    assert torch.equal(raw.tensor("a.weight"), weight.dequantize().t())
    assert not raw.metadata


def test_a_quantized_tensor_in_memory_counts_as_what_it_takes() -> None:
    weight = quantize(gaussian(32, 64), "nf4")
    header = CheckpointHeader.of({"a.weight": weight, "b.weight": gaussian(3)})
    assert header.tensors["a.weight"].nbytes == weight.nbytes < 32 * 64
    assert header.tensor("a.weight") is weight
    assert header.nbytes() == weight.nbytes + 12


def test_inspect_says_which_weights_are_packed_and_knows_the_model(tmp_path) -> None:
    from limner.cli.inspect import inspect

    contents = tensors()
    for layer, layout in MIXED.items():
        contents[f"{PREFIX}{layer}.weight"] = quantize(contents[f"{PREFIX}{layer}.weight"], layout)
    lines = "\n".join(inspect(checkpoint(tmp_path, contents)))
    assert "Stable Diffusion 1" in lines
    assert all(f"{layout} (1)" in lines for layout in MIXED.values())


def test_tensors_that_a_pack_read_are_quantized_as_their_file_says(tmp_path) -> None:
    from limner.models.load import model_of
    from limner.weights.files import load_torch_file

    contents = tensors()
    for layer, layout in MIXED.items():
        contents[f"{PREFIX}{layer}.weight"] = quantize(contents[f"{PREFIX}{layer}.weight"], layout)
    found, said = load_torch_file(checkpoint(tmp_path, contents), return_metadata=True)
    model = model_of(quantized(CheckpointHeader.of(found, said)), memory())
    packed = {
        name.removesuffix(".weight") for name, one in model.source.tensors.items() if isinstance(one, PackedTensor)
    }
    assert packed == set(MIXED)
