"""Checkpoints quantized: what is chosen, that rows rounded apart are the same, and what is refused."""

import json

import pytest
import torch

from limner.errors import BadInput, LimnerError, NotFound
from limner.weights import CheckpointHeader, save
from limner.weights.quant import QuantizedTensor, convert, quantize, sqnr
from limner.weights.quant.convert import plan
from limner.weights.quant.files import quantized
from limner.weights.quant.recipe import Recipe, read_recipe, stacked
from limner.weights.save import Writer
from tests.models.checkpoints import real_header
from tests.weights.quant.checker import FORMATS, Checked
from tests.weights.quant.make import WRITTEN, gaussian

NET = "model.diffusion_model."


def network() -> dict[str, torch.Tensor]:
    """Two blocks, what is before and after them, a text encoder and an autoencoder."""
    shapes = {
        f"{NET}input_blocks.0.0.weight": (32, 4, 3, 3),
        f"{NET}time_embed.0.weight": (64, 32),
        f"{NET}label_in.2.weight": (64, 32),
        f"{NET}out.2.weight": (4, 32, 3, 3),
        "first_stage_model.decoder.up.0.block.0.conv.weight": (32, 32, 3, 3),
        "text_model.layers.0.fc.weight": (64, 32),
        "text_model.layers.1.fc.weight": (64, 32),
        "text_model.token_embedding.weight": (100, 32),
        "scales": (3,),
    }
    for number in (1, 2):
        block = f"{NET}input_blocks.{number}"
        shapes |= {
            f"{block}.0.in_layers.2.weight": (32, 32, 3, 3),
            f"{block}.0.in_layers.2.bias": (32,),
            f"{block}.1.norm.weight": (32,),
            f"{block}.1.to_q.weight": (64, 128),
            f"{block}.1.embed.weight": (64, 64),
        }
    return {name: gaussian(*shape, seed=i).half() for i, (name, shape) in enumerate(shapes.items())}


USUAL = {f"{NET}input_blocks.{i}.{leaf}.weight" for i in (1, 2) for leaf in ("0.in_layers.2", "1.to_q")}


def opened(path, contents=None) -> CheckpointHeader:
    save(path / "in.safetensors", network() if contents is None else contents, {"config": "{}"})
    return quantized(CheckpointHeader.read(path / "in.safetensors"))


def converted(path, recipe: Recipe, contents=None) -> CheckpointHeader:
    header = opened(path, contents)
    for _ in convert.convert(header, path / "out.safetensors", plan(header, recipe, NET)):
        pass
    return quantized(CheckpointHeader.read(path / "out.safetensors"))


def chosen(header: CheckpointHeader, recipe: Recipe, prefix: str = NET) -> dict[str, str]:
    return {one.name: one.layout.name for one in recipe.choices(header, prefix) if one.layout is not None}


def test_q30_the_blocks_of_the_diffusion_model_are_meant_and_what_is_sensitive_is_not(tmp_path) -> None:
    header = opened(tmp_path)
    assert set(chosen(header, Recipe("int8_rowwise"))) == USUAL
    why = {one.name.removeprefix(NET): one.why for one in Recipe("nf4").choices(header, NET)}
    assert why["input_blocks.0.0.weight"] == why["out.2.weight"] == "a first or last layer"
    assert why["time_embed.0.weight"] == why["input_blocks.1.1.embed.weight"] == "an embedding"
    assert why["label_in.2.weight"] == "in no stack of blocks"
    assert why["input_blocks.1.1.norm.weight"] == "no matrix"
    assert why["text_model.layers.0.fc.weight"] == "outside the diffusion model"


@pytest.mark.parametrize(
    ("name", "prefix", "kept"),
    [
        ("flux-dev", "", ("img_in", "txt_in", "time_in.in_layer", "vector_in.in_layer", "final_layer.linear")),
        ("sdxl-base-unet", "", ("input_blocks.0.0", "time_embed.0", "label_emb.0.0", "out.2")),
    ],
)
def test_q30_of_published_models_all_but_the_ends_are_quantized(name: str, prefix: str, kept: tuple[str, ...]) -> None:
    header = real_header(name)
    found = chosen(header, Recipe("float8_e4m3fn"), prefix)
    assert not {f"{one}.weight" for one in kept} & set(found)
    size = {one: header.tensors[one].nbytes for one in header}
    assert sum(size[one] for one in found) > 0.95 * sum(size.values())


def test_q30_patterns_choose_and_keep(tmp_path) -> None:
    header = opened(tmp_path)
    text = {f"text_model.layers.{i}.fc.weight" for i in (0, 1)}
    assert set(chosen(header, Recipe("nf4", include=("text_model.layers.*",)))) == text
    assert set(chosen(header, Recipe("nf4", exclude=("*.to_q",)))) == {one for one in USUAL if "to_q" not in one}
    assert set(chosen(header, Recipe("nf4", include=("*",), exclude=("text_model.*", "first_stage*", "*embed*")))) == {
        *USUAL, f"{NET}input_blocks.0.0.weight", f"{NET}label_in.2.weight", f"{NET}out.2.weight",
    }  # fmt: skip


def test_q30_a_recipe_gives_layers_their_own(tmp_path) -> None:
    path = tmp_path / "recipe.json"
    said = {
        "format": "nf4",
        "exclude": ["input_blocks.2.1.*"],
        "layers": {
            "input_blocks.1.1.to_q": {"format": "int8_dynamic", "full_precision_matrix_mult": True},
            "out.2": "float8_e4m3fn",
            "input_blocks.1.*": "keep",
        },
    }
    path.write_text(json.dumps(said))
    header = converted(tmp_path, read_recipe(path))
    found = {name: one.packing.name for name in header if isinstance(one := header.tensor(name), QuantizedTensor)}
    assert found == {
        f"{NET}input_blocks.1.1.to_q.weight": "int8_dynamic",
        f"{NET}out.2.weight": "float8_e4m3fn",
        f"{NET}input_blocks.2.0.in_layers.2.weight": "nf4",
    }
    assert header.tensor(f"{NET}input_blocks.1.1.to_q.weight").parts.plain["full_precision"] is True
    assert read_recipe(path, "int4_groups", ("a",)).layout == "int4_groups"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{", "not JSON"),
        ("[]", "is no recipe"),
        ('{"formats": "nf4"}', "is no recipe"),
        ('{"format": 4}', "format is a name"),
        ('{"include": "*"}', "lists of patterns"),
        ('{"layers": []}', "layers an object"),
        ('{"format": "nf4", "layers": {"*": 3}}', "says 3 of"),
        ('{"format": "nf4", "layers": {"*": {"format": "nf4", "size": 3}}}', "says"),
        ('{"format": "nf4", "layers": {"*": "nf5"}}', "no quantization layout 'nf5'"),
        ('{"format": "gguf_q4_k"}', "only read"),
        ('{"format": "nf4", "exclude": ["nowhere*"]}', "fits 'nowhere"),
        ('{"format": "nf4", "layers": {"*": "keep"}}', "Nothing of in.safetensors would be quantized"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path, said: str, message: str) -> None:
    (tmp_path / "recipe.json").write_text(said)
    with pytest.raises(LimnerError, match=message):
        plan(opened(tmp_path), read_recipe(tmp_path / "recipe.json"), NET)


def test_a_recipe_that_is_not_there_is_not_found(tmp_path) -> None:
    with pytest.raises(NotFound):
        read_recipe(tmp_path / "recipe.json")


@pytest.mark.parametrize("name", WRITTEN)
def test_q28_rows_rounded_apart_are_the_same_as_the_whole(tmp_path, monkeypatch, name: str) -> None:
    recipe = Recipe(name, include=("*input_blocks*",))
    (tmp_path / "whole").mkdir()
    whole = converted(tmp_path / "whole", recipe)
    monkeypatch.setattr(convert, "AT_ONCE", 700)
    (tmp_path / "apart").mkdir()
    converted(tmp_path / "apart", recipe)
    first, second = ((tmp_path / part / "out.safetensors").read_bytes() for part in ("whole", "apart"))
    assert first == second
    own = network()
    layers = [key for key in whole if isinstance(whole.tensor(key), QuantizedTensor)]
    assert len(layers) >= 4
    for key in layers:
        assert torch.equal(whole.tensor(key).dequantize(), quantize(own[key], name).dequantize())
    assert all(torch.equal(whole.tensor(key), own[key]) for key in own if key not in layers)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "int8_tensorwise", "mxfp8", "nvfp4", "int8_rowwise", "nf4"])
def test_q28_what_is_written_is_what_the_guide_states(tmp_path, name: str) -> None:
    assert name in FORMATS
    header = converted(tmp_path, Recipe(name, include=("*.to_q", "text_model.layers.*")))
    checked = Checked(tmp_path / "out.safetensors")
    assert checked.wrong == []
    assert len(checked.layers) == 4
    assert checked.metadata["config"] == "{}"
    save(tmp_path / "again.safetensors", {key: header.tensor(key) for key in header}, header.metadata)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "out.safetensors").read_bytes()


def test_what_each_layer_lost_is_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(convert, "AT_ONCE", 700)
    header = opened(tmp_path)
    found = list(convert.convert(header, tmp_path / "out.safetensors", plan(header, Recipe("int4_groups"), NET)))
    out = quantized(CheckpointHeader.read(tmp_path / "out.safetensors"))
    assert [one.name for one in found] == list(header)
    for one in found:
        assert (one.sqnr is not None) is (one.name in USUAL)
        if one.sqnr is not None:
            exact, again = header.tensor(one.name).float(), out.tensor(one.name).to(torch.float32).dequantize()
            assert one.sqnr == pytest.approx(sqnr(exact, again), abs=1e-3)
            assert one.after == out.tensors[one.name].nbytes < 0.32 * one.before


def test_a_layout_that_does_not_hold_a_layer_leaves_it(tmp_path) -> None:
    found = {one.name: one.why for one in Recipe("nvfp4").choices(opened(tmp_path), NET)}
    assert found[f"{NET}input_blocks.1.0.in_layers.2.weight"] == "nvfp4 holds matrices only"
    assert found[f"{NET}input_blocks.1.1.to_q.weight"] == ""


def test_what_is_quantized_already_is_kept_or_changed(tmp_path) -> None:
    names = [f"{NET}input_blocks.{i}.1.to_q.weight" for i in (1, 2)]
    own = network()
    contents = own | {name: quantize(own[name], "gguf_q8_0") for name in names}
    header = converted(tmp_path, Recipe("int8_rowwise", exclude=("input_blocks.2.*",)), contents)
    assert header.tensor(names[0]).packing.name == "int8_rowwise"
    assert torch.equal(header.tensor(names[1]).dequantize(), contents[names[1]].dequantize())
    assert header.tensor(names[1]).packing.name == "gguf_q8_0"
    assert sqnr(own[names[0]], header.tensor(names[0]).dequantize()) > 36


def test_weights_that_are_not_finite_are_refused_by_name_and_leave_no_file(tmp_path) -> None:
    name = f"{NET}input_blocks.1.1.to_q.weight"
    contents = network()
    contents[name][3, 3] = float("inf")
    with pytest.raises(BadInput, match=r"input_blocks\.1\.1\.to_q\.weight: .*infinite"):
        converted(tmp_path, Recipe("nf4"), contents)
    assert [one.name for one in tmp_path.iterdir()] == ["in.safetensors"]


def test_blocks_are_numbered_and_hold_more_than_a_weight() -> None:
    names = ("a.0.b.weight", "a.1.b.weight", "c.0.weight", "c.2.weight", "d.0.b.weight", "e.weight")
    assert stacked(CheckpointHeader.of(dict.fromkeys(names, torch.zeros(1)))) == {"a.0.b.weight", "a.1.b.weight"}


def test_a_writer_wants_all_of_every_tensor_and_no_more(tmp_path) -> None:
    path, shape = tmp_path / "x.safetensors", {"a": torch.zeros(4, 2)}
    with pytest.raises(ValueError, match="not written to its end"), Writer(path, shape) as writer:
        writer.append("a", torch.zeros(3, 2))
    with pytest.raises(ValueError, match="no place"), Writer(path, shape) as writer:
        writer.append("a", torch.zeros(5, 2))
    assert not list(tmp_path.iterdir())
    with Writer(path, shape) as writer:
        writer.append("a", torch.ones(1, 2))
        writer.append("a", torch.zeros(3, 2))
    assert CheckpointHeader.read(path).tensor("a").sum() == 2


def test_where_nothing_can_be_written_is_said(tmp_path) -> None:
    with pytest.raises(LimnerError, match="cannot be written"):
        save(tmp_path / "nowhere" / "x.safetensors", {"a": torch.zeros(1)})
