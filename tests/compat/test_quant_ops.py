"""comfy.quant_ops: a pack's layout under the published names, from registration to a layer that computes with it."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.compat.homes import comfy_quant_ops
from limner.weights.quant import REGISTRY, counting_fallbacks, sqnr
from tests.compat.using import place as opened
from tests.weights.quant.make import gaussian

aten = torch.ops.aten


class ToyLayout(comfy_quant_ops.QuantizedLayout):
    """Int8 with a scale, as a pack would write it."""

    @classmethod
    def quantize(cls, tensor: Tensor, scale: Tensor | None = None, note: str = "toy") -> tuple[Tensor, dict[str, Any]]:
        scale = tensor.abs().amax() / 127 if scale is None else scale
        return (tensor / scale).round().to(torch.int8), {"scale": scale, "orig_dtype": tensor.dtype, "note": note}

    @staticmethod
    def dequantize(qdata: Tensor, scale: Tensor, orig_dtype: torch.dtype, **kwargs: Any) -> Tensor:
        assert kwargs == {"note": "toy"}
        return qdata.to(orig_dtype) * scale

    @classmethod
    def get_plain_tensors(cls, qtensor: Any) -> tuple[Tensor, Tensor]:
        return qtensor._qdata, qtensor._layout_params["scale"]


@pytest.fixture(scope="module", autouse=True)
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with opened(tmp_path_factory.mktemp("quant_ops")):
        yield


@pytest.fixture
def toy() -> Iterator[type[ToyLayout]]:
    comfy_quant_ops.LAYOUTS["ToyLayout"] = ToyLayout
    yield ToyLayout
    del comfy_quant_ops.LAYOUTS["ToyLayout"]
    assert "ToyLayout" not in REGISTRY


@pytest.mark.parametrize("by_class", [True, False])
def test_q08_a_layout_of_a_pack_works_end_to_end(toy: type[ToyLayout], by_class: bool) -> None:
    from comfy.quant_ops import QuantizedTensor, register_layout_op  # type: ignore[import-not-found]

    calls = []

    @register_layout_op(aten.linear.default, toy if by_class else "ToyLayout")
    def linear(func: Any, args: Any, kwargs: Any) -> Tensor:
        calls.append(func)
        x, weight, bias = args
        qdata, scale = ToyLayout.get_plain_tensors(weight)
        return F.linear(x, qdata.to(x.dtype), None) * scale + bias

    dense, x = gaussian(16, 32), gaussian(3, 32, seed=1)
    weight = QuantizedTensor.from_float(dense, "ToyLayout")
    assert weight.layout_type == "ToyLayout"
    assert weight._layout_params == {"scale": dense.abs().amax() / 127, "orig_dtype": torch.float32, "note": "toy"}
    assert sqnr(dense, weight.dequantize()) > 37
    layer = nn.Linear(32, 16)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    with counting_fallbacks() as fallbacks:
        for mode in (torch.inference_mode, torch.no_grad):
            with mode():
                assert torch.allclose(layer(x), F.linear(x, weight.dequantize(), layer.bias), atol=1e-4)
        assert torch.equal(weight.t().dequantize(), weight.dequantize().t())
        assert torch.equal(weight.clone().to("cpu", torch.float32).dequantize(), weight.dequantize())
    assert len(calls) == 2
    assert not fallbacks.counts
    layer.half()
    assert layer.weight.dequantize().dtype == torch.float16
    weight.copy_(dense * 2)
    assert sqnr(dense * 2, weight.dequantize()) > 37
    again = QuantizedTensor(weight._qdata, toy.__name__, weight._layout_params)
    assert torch.equal(again.dequantize(), weight.dequantize())


def test_q08_what_a_pack_leaves_out_is_dequantized_and_counted(toy: type[ToyLayout]) -> None:
    weight = comfy_quant_ops.QuantizedTensor.from_float(gaussian(4, 4), "ToyLayout")
    with counting_fallbacks() as fallbacks, torch.inference_mode():
        found = F.linear(gaussian(2, 4), weight)
        torch.exp(weight)
    assert torch.allclose(found, F.linear(gaussian(2, 4), weight.dequantize()))
    assert fallbacks.counts == {("ToyLayout", "aten.linear.default"): 1, ("ToyLayout", "aten.exp.default"): 1}


def test_q08_an_operation_may_be_registered_before_its_layout() -> None:
    @comfy_quant_ops.register_layout_op(aten.exp.default, "LaterLayout")
    def exp(func: Any, args: Any, kwargs: Any) -> Tensor:
        return torch.tensor(5.0)

    comfy_quant_ops.LAYOUTS["LaterLayout"] = type("LaterLayout", (ToyLayout,), {})
    weight = comfy_quant_ops.QuantizedTensor.from_float(gaussian(4, 4), "LaterLayout")
    assert torch.exp(weight) == 5
    del comfy_quant_ops.LAYOUTS["LaterLayout"]


def test_q08_a_class_that_nobody_registered_is_registered_by_using_it() -> None:
    kind = type("UnseenLayout", (ToyLayout,), {})
    comfy_quant_ops.register_layout_op(aten.exp.default, kind)(lambda func, args, kwargs: torch.tensor(6.0))
    assert comfy_quant_ops.LAYOUTS["UnseenLayout"] is kind
    assert torch.exp(comfy_quant_ops.QuantizedTensor.from_float(gaussian(4, 4), "UnseenLayout")) == 6
    del comfy_quant_ops.LAYOUTS["UnseenLayout"]


def test_q08_a_generic_operation_holds_for_all() -> None:
    comfy_quant_ops.register_generic_util(aten.erf.default)(lambda func, args, kwargs: torch.tensor(7.0))
    try:
        for name in ("nf4", "TensorCoreFP8Layout"):
            assert torch.erf(comfy_quant_ops.QuantizedTensor.from_float(gaussian(4, 4), name)) == 7
    finally:
        REGISTRY._generic.pop(aten.erf.default)


def test_q09_layouts_and_algorithms_are_there_to_be_read() -> None:
    from comfy.quant_ops import LAYOUTS, QUANT_ALGOS, TensorCoreFP8Layout

    algorithm = QUANT_ALGOS["float8_e4m3fn"]
    assert algorithm["storage_t"] == torch.float8_e4m3fn
    assert algorithm["parameters"] == {"weight_scale", "input_scale"}
    assert algorithm["comfy_tensor_layout"] == "TensorCoreFP8Layout"
    assert LAYOUTS["TensorCoreFP8Layout"] is TensorCoreFP8Layout
    assert len(LAYOUTS) >= 3
    for one in QUANT_ALGOS.values():
        assert REGISTRY.find(one["comfy_tensor_layout"]).storage == one["storage_t"]
        assert one["parameters"] <= {"weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale"}
        assert one.get("group_size", 0) == REGISTRY.find(one["comfy_tensor_layout"]).block


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_q09_the_float8_layout_under_its_published_name(dtype: torch.dtype) -> None:
    from comfy.quant_ops import QuantizedTensor, TensorCoreFP8Layout

    dense = gaussian(8, 16).bfloat16()
    qdata, params = TensorCoreFP8Layout.quantize(dense, dtype=dtype)
    assert qdata.dtype == dtype
    assert params["orig_dtype"] == torch.bfloat16
    assert params["scale"] == dense.float().abs().amax() / torch.finfo(dtype).max
    assert sqnr(dense, TensorCoreFP8Layout.dequantize(qdata, **params)) > 24
    found = QuantizedTensor.from_float(dense, "TensorCoreFP8Layout", dtype=dtype)
    assert found.layout_type == "TensorCoreFP8Layout"
    assert torch.equal(found.dequantize(), TensorCoreFP8Layout.dequantize(qdata, **params))
    assert TensorCoreFP8Layout.get_plain_tensors(found)[0].dtype == dtype
    assert bool(((found.dequantize().float() - dense.float()).abs() <= found.error_bound() + 0.01).all())
