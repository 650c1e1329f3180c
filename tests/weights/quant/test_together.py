"""Queries, keys and values: inputs that are the same are rounded once, and nothing else changes."""

import copy

import pytest
import torch
from torch import Tensor, nn

from limner.weights.ops import Conv2d, Linear
from limner.weights.quant import REGISTRY, QuantizedTensor, computing, quantize
from limner.weights.quant.matmul import multiplies_int8_on_cpu
from limner.weights.quant.operations import aten, linear
from limner.weights.quant.together import projected

needs_int8 = pytest.mark.skipif(not multiplies_int8_on_cpu(), reason="this processor multiplies no int8")


def layer(layout: str | None = "int8_dynamic", rows: int = 32, **options: object) -> Linear:
    """Of 64 columns, with a bias."""
    made = Linear(64, rows).requires_grad_(False)
    if layout is not None:
        made.weight = nn.Parameter(quantize(made.weight, layout, **options), requires_grad=False)  # type: ignore[arg-type]
    return made


@pytest.fixture
def rounded(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What int8_dynamic was given to round."""
    found: list[Tensor] = []
    packing = type(REGISTRY.find("int8_dynamic"))
    own = packing.encode_inputs

    def seen(self: object, x: Tensor, parts: object) -> object:
        found.append(x)
        return own(self, x, parts)  # type: ignore[arg-type]

    monkeypatch.setattr(packing, "encode_inputs", seen)
    return found


@needs_int8
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_same_inputs_are_rounded_once(rounded: list[Tensor], dtype: torch.dtype) -> None:
    layers = [layer(), layer(rows=48), layer()]
    x = torch.randn(2, 5, 64).to(dtype)
    alone = [one(x) for one in layers]
    rounded.clear()
    together = projected(*((one, x) for one in layers))
    assert len(rounded) == 1
    for one, other in zip(together, alone, strict=True):
        assert (one.dtype, one.shape) == (dtype, other.shape)
        assert torch.equal(one, other)


@needs_int8
def test_each_input_has_its_own_numbers(rounded: list[Tensor]) -> None:
    query, key, value = layer(), layer(), layer()
    x, context = torch.randn(2, 5, 64), torch.randn(2, 7, 64)
    pairs = ((query, x), (key, context), (value, context))
    alone = [one(given) for one, given in pairs]
    rounded.clear()
    assert all(torch.equal(one, other) for one, other in zip(projected(*pairs), alone, strict=True))
    assert len(rounded) == 2


@pytest.mark.parametrize(
    "made",
    [
        lambda: layer(None),
        lambda: layer("int8_rowwise"),
        lambda: layer("float8_e4m3fn", activations="dynamic"),
        lambda: layer("int8_dynamic", input_scale=0.1),
        lambda: layer("int8_smooth", input_amax=torch.rand(64) + 1),
        lambda: layer("int8_dynamic", full_precision=True),
        lambda: nn.Sequential(layer()),
    ],
)
def test_layers_that_round_in_their_own_way_are_called(made) -> None:  # type: ignore[no-untyped-def]
    layers, x = [made(), made()], torch.randn(3, 64)
    for one, other in zip(projected(*((each, x) for each in layers)), [each(x) for each in layers], strict=True):
        assert torch.equal(one, other)


def test_in_full_precision_nothing_is_rounded(rounded: list[Tensor]) -> None:
    layers, x = [layer(), layer()], torch.randn(3, 64)
    with computing(full_precision=True):
        projected(*((each, x) for each in layers))
    assert not rounded


def test_hooks_see_what_goes_in_and_out() -> None:
    watched, x, seen = layer(), torch.randn(3, 64), []
    watched.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    watched.register_forward_hook(lambda _, args, out: out + 1)
    plain = layer()
    plain.load_state_dict(watched.state_dict())
    found, expected = projected((watched, x), (plain, x))
    assert seen[0] is x
    assert torch.allclose(found, expected + 1)


def test_a_forward_of_ones_own_is_called() -> None:
    changed, x = layer(), torch.randn(3, 64)
    changed.forward = lambda given: given * 2  # type: ignore[method-assign]
    assert torch.equal(projected((changed, x), (layer(), x))[0], x * 2)


@pytest.mark.parametrize("layout", ["int8_dynamic", "int8_rowwise", "float8_e4m3fn"])
def test_gradients_of_inputs_are_those_of_what_the_weight_stands_for(layout: str) -> None:
    packed, x = layer(layout), torch.randn(3, 64, requires_grad=True)
    dense = packed.weight.dequantize()  # type: ignore[operator]
    for made in (packed(x), projected((packed, x))[0]):
        (found,) = torch.autograd.grad(made.sum(), x)
        assert torch.allclose(found, dense.sum(0).expand(3, 64), atol=1e-5)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("layout", ["int8_dynamic", "int8_rowwise", "nf4", "mxfp8"])
@pytest.mark.parametrize(("kept", "dtype"), [(torch.float16, torch.float32), (torch.float32, torch.bfloat16)])
def test_the_dtype_that_a_weight_stands_for_does_not_matter(
    layout: str, kept: torch.dtype, dtype: torch.dtype, mode: type
) -> None:
    linear_layer, kernel = Linear(64, 32).to(kept), Conv2d(64, 32, 3, padding=1).to(kept)
    for one, x in ((linear_layer, torch.randn(2, 3, 64)), (kernel, torch.randn(2, 64, 8, 8))):
        one.requires_grad_(False)
        one.weight = nn.Parameter(quantize(one.weight, layout), requires_grad=False)
        cast = copy.deepcopy(one).to(dtype)
        with mode():
            found, expected = one(x.to(dtype)), cast(x.to(dtype))
        assert found.dtype == dtype
        assert torch.equal(found, expected)


def test_an_operation_that_was_registered_for_the_layout_is_done() -> None:
    layers, x = [layer(), layer()], torch.randn(3, 64)
    packing = REGISTRY.find("int8_dynamic")

    @REGISTRY.on("int8_dynamic", aten.linear.default)
    def doubled(func, args, kwargs):  # type: ignore[no-untyped-def]
        return linear(func, args, kwargs) * 2

    try:
        with torch.inference_mode():
            found = projected(*((each, x) for each in layers))
        assert isinstance(layers[0].weight.data, QuantizedTensor)
        expected = [2 * packing.linear(x, each.weight.data.parts, each.bias) for each in layers]
        assert all(torch.allclose(one, other) for one, other in zip(found, expected, strict=True))
    finally:
        REGISTRY.off("int8_dynamic", aten.linear.default)
