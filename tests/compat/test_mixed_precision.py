"""Layers in several precisions that packs build and fill: comfy.ops' own, and those that a loader is given."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.compat.homes import comfy_ops, comfy_sd
from limner.errors import BadInput
from limner.weights import ops
from limner.weights.quant import QuantizedTensor, computing, quantize, sqnr
from tests.compat.using import place as opened
from tests.models.checkpoints import metadata as said
from tests.models.checkpoints import tensors
from tests.weights.quant.make import gaussian

X = gaussian(3, 32, seed=9)
UNET_LAYER = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
TEXT_LAYER = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1"


@pytest.fixture(scope="module", autouse=True)
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with opened(tmp_path_factory.mktemp("mixed")):
        yield


def network(kind: Any) -> nn.Module:
    return nn.Sequential(*(kind.Linear(32, 32, dtype=torch.float32) for _ in range(3)))


def state(layouts: dict[int, str]) -> dict[str, Tensor]:
    """Three layers; some in a layout, as a file has them."""
    found: dict[str, Tensor] = {}
    for place in range(3):
        weight = gaussian(32, 32, seed=place) / 6
        parts = {"weight": weight}
        if place in layouts:
            made = quantize(weight, layouts[place])
            parts = made.packing.to_file(made.parts)
        found |= {f"{place}.{name}": one for name, one in parts.items()} | {f"{place}.bias": gaussian(32, seed=place)}
    return found


def exact() -> Tensor:
    made = nn.Sequential(*(nn.Linear(32, 32) for _ in range(3)))
    made.load_state_dict(state({}))
    return made(X).detach()


MIXED = {0: "float8_e4m3fn", 2: "int8_tensorwise"}
SAID = {str(place): {"format": name} for place, name in MIXED.items()}


def test_q14_without_a_configuration_all_layers_are_plain() -> None:
    made = network(comfy_ops.mixed_precision_ops(compute_dtype=torch.float32))
    made.load_state_dict(state({}))
    assert not any(isinstance(one, QuantizedTensor) for one in made.parameters())
    assert torch.allclose(made(X), exact(), atol=1e-5)


def test_q14_layers_are_read_as_the_configuration_says_and_stay_so() -> None:
    made = network(comfy_ops.mixed_precision_ops({"layers": SAID}, torch.bfloat16))
    assert not any(made.load_state_dict(state(MIXED)))
    kept = {name: one for name, one in made.state_dict().items() if isinstance(one, QuantizedTensor)}
    assert {name: one.packing.name for name, one in kept.items()} == {
        f"{place}.weight": name for place, name in MIXED.items()
    }
    assert made[1].weight.dtype == torch.bfloat16
    assert sqnr(exact(), made(X)) > 25


def test_q14_a_function_of_a_weight_is_called_on_a_quantized_one() -> None:
    made = network(comfy_ops.mixed_precision_ops(SAID, torch.float32))
    made.load_state_dict(state(MIXED))
    before = made[0](X)
    made[0].weight_function = [lambda weight: weight + 0.5]
    assert torch.allclose(made[0](X), before + 0.5 * X.sum(1, keepdim=True), atol=1e-3)


def test_q14_what_cannot_be_read_is_named() -> None:
    made = network(comfy_ops.mixed_precision_ops(SAID))
    with pytest.raises(ValueError, match="Missing weight for layer 1"):
        made.load_state_dict({name: one for name, one in state(MIXED).items() if name != "1.weight"})
    for one, kind in (({}, ValueError), ({"format": "float9"}, KeyError)):
        other = network(comfy_ops.mixed_precision_ops({"0": one}))
        with pytest.raises(kind, match=r"(?i)layer 0.*|unknown quantization format") as error:
            other.load_state_dict(state(MIXED))
        assert isinstance(error.value, BadInput)
        assert "nknown quantization format" in str(error.value)


def test_q13_configurations_are_not_shared() -> None:
    one = comfy_ops.mixed_precision_ops({"0": "float8_e4m3fn"}, torch.float32)
    other = comfy_ops.mixed_precision_ops({"0": "int8_tensorwise"}, torch.float16)
    made = [network(kind) for kind in (one, other)]
    for each, layout in zip(made, ("float8_e4m3fn", "int8_tensorwise"), strict=True):
        each.load_state_dict(state({0: layout}))
    assert [each[0].weight.packing.name for each in made] == ["float8_e4m3fn", "int8_tensorwise"]
    assert [each[1].weight.dtype for each in made] == [torch.float32, torch.float16]
    assert comfy_ops.MixedPrecisionOps._layer_quant_config == {}


def test_q25_and_q26_a_state_dict_may_say_it_itself() -> None:
    text = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    in_band = network(comfy_ops.mixed_precision_ops(compute_dtype=torch.float32))
    in_band.load_state_dict(state({1: "float8_e4m3fn"}) | {"1.comfy_quant": text})
    older = network(comfy_ops.scaled_fp8_ops())
    contents = state({1: "float8_e4m3fn"})
    contents["1.scale_weight"] = contents.pop("1.weight_scale")
    older.load_state_dict(contents)
    assert torch.equal(in_band[1].weight.dequantize(), older[1].weight.float().dequantize())


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"model_config": SimpleNamespace(layer_quant_config=SAID), "scaled_fp8": torch.float8_e4m3fn}, "mixed"),
        ({"scaled_fp8": torch.float8_e4m3fn, "fp8_optimizations": True}, "scaled"),
        ({"fp8_optimizations": True}, "fp8_ops"),
        ({"fp8_optimizations": True, "disable_fast_fp8": True}, "manual_cast"),
        ({}, "manual_cast"),
        ({"compute_dtype": None}, "disable_weight_init"),
        ({"compute_dtype": torch.float16}, "disable_weight_init"),
    ],
)
@pytest.mark.parametrize("hardware", [True, False])
def test_q17_layers_are_picked_in_this_order(asked: dict[str, Any], found: str, hardware: bool) -> None:
    with computing(fp8=hardware):
        picked = comfy_ops.pick_operations(
            torch.float16, **{"compute_dtype": torch.bfloat16, "load_device": "cpu", **asked}
        )
    if found == "mixed":
        assert picked._layer_quant_config == SAID  # type: ignore[attr-defined]
    elif found == "scaled":
        assert picked._layer_quant_config == {}  # type: ignore[attr-defined]
    else:
        assert picked is getattr(comfy_ops, found if hardware or found != "fp8_ops" else "manual_cast")


class Doubled(comfy_ops.manual_cast):
    """A pack's layers: a linear one reads its weight in eight bits, whatever a file says of it."""

    read: ClassVar[list[str]] = []

    class Linear(comfy_ops.manual_cast.Linear):
        def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
            Doubled.read.append(prefix)
            self.weight = nn.Parameter(state_dict[prefix + "weight"].to(torch.float8_e5m2), requires_grad=False)
            self.bias = nn.Parameter(state_dict[prefix + "bias"]) if self.bias is not None else None

        def forward_comfy_cast_weights(self, input: Tensor) -> Tensor:  # noqa: A002
            assert self.weight.dtype == torch.float8_e5m2
            return F.linear(input, self.weight.to(input.dtype), self.bias)


def test_q17_a_packs_own_layers_come_before_all(tmp_path: Any) -> None:
    prefix = "model.diffusion_model."
    contents = {name.removeprefix(prefix): one for name, one in tensors().items() if name.startswith(prefix)}
    layer = UNET_LAYER
    made = quantize(contents[f"{layer}.weight"], "float8_e4m3fn", scale=1.0)
    contents |= {f"{layer}.weight": made._qdata, f"{layer}.weight_scale": torch.tensor(1.0)}
    formats = json.dumps({"format_version": "1.0", "layers": {layer: {"format": "float8_e4m3fn"}}})
    text = {"_quantization_metadata": formats, "config": json.dumps({"unet": {"num_heads": 2, "norm_groups": 4}})}
    Doubled.read.clear()
    model = comfy_sd.load_diffusion_model_state_dict(contents, {"custom_operations": Doubled}, metadata=text)
    assert f"{layer}." in Doubled.read
    with model.loaded() as loaded, torch.inference_mode():
        linear = loaded.get_submodule(layer)
        assert type(linear) is Doubled.Linear
        assert torch.equal(linear.weight.float(), made._qdata.to(torch.float8_e5m2).float())
        found = loaded(gaussian(1, 4, 8, 8), torch.tensor([500.0]), context=gaussian(1, 5, 6))
    plain = comfy_sd.load_diffusion_model_state_dict(contents, {}, metadata=text)
    with plain.loaded() as loaded, torch.inference_mode():
        assert isinstance(loaded.get_submodule(layer).weight, QuantizedTensor)
        want = loaded(gaussian(1, 4, 8, 8), torch.tensor([500.0]), context=gaussian(1, 5, 6))
    assert 10 < sqnr(want, found) < 60


def test_q17_parts_of_a_checkpoint_may_have_a_packs_layers_each() -> None:
    contents, text = tensors(), said()
    kinds = [
        [type(one.get_submodule(name)) for one, name in zip(found, (UNET_LAYER, TEXT_LAYER), strict=True)]
        for found in (
            [
                one.source.build()
                for one in comfy_sd.load_state_dict_guess_config(contents, metadata=text, **options)[:2]
            ]
            for options in (
                {},
                {"model_options": {"custom_operations": Doubled}},
                {"te_model_options": {"custom_operations": Doubled}},
            )
        )
    ]
    assert kinds == [[ops.Linear, ops.Linear], [Doubled.Linear, ops.Linear], [ops.Linear, Doubled.Linear]]
