"""The guide to quantization, row by row, as far as tensors and layouts go."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput, NotFound
from limner.weights.quant import (
    REGISTRY,
    Layout,
    Parts,
    QuantizedTensor,
    Registry,
    computing,
    counting_fallbacks,
    matmul,
    quantize,
    sqnr,
)
from limner.weights.quant.matmul import Compute, fp8_product, supports_fp8
from limner.weights.quant.rounding import E2M1, E4M3, E5M2, Rounding
from tests.weights.quant.make import BUILT_IN, example, gaussian

aten = torch.ops.aten


def test_q01_ranges_are_those_of_the_dtypes() -> None:
    assert torch.finfo(torch.float16).max == 65504
    assert torch.finfo(torch.float8_e4m3fn).max == E4M3.largest == 448
    assert torch.finfo(torch.float8_e5m2).max == E5M2.largest == 57344
    assert E2M1.largest == 6


@pytest.mark.parametrize(("dtype", "grid"), [(torch.float8_e4m3fn, E4M3), (torch.float8_e5m2, E5M2)])
def test_q01_a_grid_holds_just_the_numbers_of_its_dtype(dtype: torch.dtype, grid: object) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    every = every[every.isfinite()]
    assert torch.equal(Rounding().to_grid(every, grid), every)  # type: ignore[arg-type]
    between = torch.linspace(-500, 500, 4001)
    assert torch.equal(Rounding().to_grid(between, grid), between.clamp(-grid.largest, grid.largest).to(dtype).float())  # type: ignore[arg-type, attr-defined]


def test_q02_scale_is_amax_over_the_largest() -> None:
    weight = gaussian(64, 64)
    found = quantize(weight, "float8_e4m3fn")
    scale = weight.abs().max() / 448
    assert torch.equal(found._layout_params["scale"], scale)
    assert torch.equal(found._qdata.float(), (weight / scale).to(torch.float8_e4m3fn).float())
    assert torch.equal(found.dequantize(), found._qdata.float() * scale)
    assert 31 < sqnr(weight, found.dequantize()) < 32.5


@settings(max_examples=50, deadline=None)
@given(exponent=st.floats(-20, 20), seed=st.integers(0, 99))
def test_q02_normal_numbers_are_off_by_a_sixteenth_at_most(exponent: float, seed: int) -> None:
    weight = gaussian(16, 16, seed=seed) * 2**exponent
    found = quantize(weight, "float8_e4m3fn")
    normal = found._qdata.float().abs() >= 2**-6
    relative = ((found.dequantize() - weight).abs() / weight.abs())[normal]
    assert relative.max() <= 2**-4 * 1.001


def test_q03_what_is_too_large_for_a_given_scale_becomes_the_largest() -> None:
    weight = torch.tensor([[1e6, -1e6, 500.0, 3.0]])
    for name, largest in (("float8_e4m3fn", 448), ("float8_e5m2", 57344), ("int8_rowwise", 127)):
        found = quantize(weight, name, scale=1.0).dequantize()
        assert found.isfinite().all()
        assert found[0, 0] == -found[0, 1] == largest


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "int8_rowwise", "nvfp4", "mxfp8"])
def test_q02_tiny_halves_have_a_finite_scale(name: str) -> None:
    weight = torch.full((4, 32), 6e-8, dtype=torch.float16)
    found = quantize(weight, name).dequantize()
    assert found.isfinite().all()
    assert torch.allclose(found.float(), weight.float(), rtol=0.1, atol=0)


def test_q04_it_is_a_tensor_with_the_published_fields() -> None:
    qdata, scale = gaussian(3, 5).to(torch.float8_e4m3fn), torch.tensor(0.5)
    found = QuantizedTensor(qdata, "float8_e4m3fn", {"scale": scale, "orig_dtype": torch.bfloat16})
    assert isinstance(found, Tensor)
    assert found.shape == (3, 5)
    assert (found.dtype, found.device, found.requires_grad) == (torch.bfloat16, qdata.device, False)
    assert found._qdata is qdata
    assert isinstance(found.layout_type, str)
    assert found._layout_type == found.layout_type
    assert found._layout_params == {"scale": scale, "orig_dtype": torch.bfloat16}
    assert found.data_ptr() == qdata.data_ptr()
    assert found.is_contiguous()
    assert found.is_contiguous(memory_format=torch.contiguous_format)
    assert not found.is_pinned()
    assert "3, 5" in repr(found)
    assert found.nbytes == 15 + 4


def test_q04_parts_are_named_for_flattening() -> None:
    names, _ = example("nvfp4").__tensor_flatten__()
    assert names == ["_qdata", "_layout_param_scale", "_layout_param_global_scale"]


def test_q04_it_is_pinned_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []
    monkeypatch.setattr(Tensor, "is_pinned", lambda self: id(self) in pinned)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: pinned.append(id(self)) or self)
    weight = example("nvfp4")
    assert not weight.is_pinned()
    assert weight.pin_memory().is_pinned()
    assert len(pinned) == 3


def test_q05_generic_first_then_the_layout_then_its_classes_then_dequantize() -> None:
    layout, calls = REGISTRY["nf4"], []

    def handler(name: str, answer: object) -> object:
        def handle(func: object, args: object, kwargs: object) -> object:
            calls.append(name)
            return answer

        return handle

    weight = example("nf4")
    REGISTRY.on(layout, aten.sin.default)(handler("layout", torch.tensor(1)))  # type: ignore[arg-type]
    REGISTRY.on_all(aten.sin.default)(handler("generic", NotImplemented))  # type: ignore[arg-type]
    REGISTRY.on(type(layout), aten.cos.default)(handler("class", torch.tensor(2)))  # type: ignore[arg-type]
    try:
        assert torch.sin(weight) == 1
        assert torch.cos(weight) == 2
        assert calls == ["generic", "layout", "class"]
        assert torch.equal(torch.tan(weight), torch.tan(weight.dequantize()))
    finally:
        REGISTRY.off(layout, aten.sin.default)
        REGISTRY.off(type(layout), aten.cos.default)
        REGISTRY.off(None, aten.sin.default)
    assert isinstance(torch.sin(weight), Tensor)


def test_q05_a_layout_is_found_inside_lists_and_everything_is_dequantized() -> None:
    a, b = example("float8_e4m3fn"), example("int8_rowwise", seed=2)
    with counting_fallbacks() as fallbacks:
        found = torch.stack([a, b])
        assert torch.equal(torch.cat([a, b], 1), torch.cat([a.dequantize(), b.dequantize()], 1))
    assert torch.equal(found, torch.stack([a.dequantize(), b.dequantize()]))
    assert fallbacks.counts["float8_e4m3fn", "aten.stack.default"] == 1


def test_q05_what_dequantizes_is_counted_by_whoever_asks_and_told(caplog: pytest.LogCaptureFixture) -> None:
    weight = example("nf4")
    with caplog.at_level(logging.INFO, logger="limner"), counting_fallbacks() as outer:
        torch.exp(weight)
        with counting_fallbacks() as inner:
            torch.exp(weight)
            torch.exp(weight)
    assert outer.counts == {("nf4", "aten.exp.default"): 3}
    assert inner.counts == {("nf4", "aten.exp.default"): 2}
    assert next(outer.lines()) == "aten.exp.default dequantized nf4 3 times"
    assert sum("nf4" in message for message in caplog.messages) == 2  # once when it first happens, once summed up
    with caplog.at_level(logging.INFO, logger="limner"):
        torch.exp(weight)
    assert sum("nf4" in message for message in caplog.messages) == 3  # never silent, though nobody counts


def test_q05_what_is_written_in_place_is_quantized_again() -> None:
    for name in ("float8_e4m3fn", "int8_rowwise", "nf4", "nvfp4"):
        weight = example(name)
        dense = weight.dequantize()
        again = weight.mul_(2)
        assert again is weight
        assert sqnr(dense * 2, weight.dequantize()) > 30
        weight.add_(torch.ones(48, 256))
        assert sqnr(dense * 2 + 1, weight.dequantize()) > 18
    with pytest.raises(BadInput, match="cannot be changed"):
        example("gguf_q4_k").mul_(2)


def test_q06_a_dtype_asked_for_is_only_what_it_stands_for() -> None:
    weight = example("int8_rowwise")
    for found in (weight.to(torch.bfloat16), weight.bfloat16(), weight.to("cpu", torch.bfloat16)):
        assert isinstance(found, QuantizedTensor)
        assert found.dtype == torch.bfloat16 == found.dequantize().dtype
        assert found._qdata.dtype == torch.int8
    with torch.inference_mode():
        assert weight.to(torch.float16).dtype == torch.float16
    assert weight.dtype == torch.float32
    eight = weight.to(torch.float8_e4m3fn)
    assert not isinstance(eight, QuantizedTensor)
    assert eight.dtype == torch.float8_e4m3fn


def test_q06_writing_into_a_copy_of_another_dtype_leaves_the_first_alone() -> None:
    weight = example("float8_e4m3fn")
    dense = weight.dequantize()
    weight.bfloat16().mul_(0)
    weight.bfloat16().copy_(torch.zeros(48, 256))
    assert torch.equal(weight.dequantize(), dense)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "int8_dynamic", "nf4", "mxfp8", "nvfp4", "gguf_q8_0"])
def test_q06_copying_in_place(name: str) -> None:
    target, source = example(name), example(name, seed=9)
    pointer = target.data_ptr()
    target.copy_(source, non_blocking=True)
    assert target.data_ptr() == pointer
    assert torch.equal(target.dequantize(), source.dequantize())
    target.copy_(gaussian(48, 256, seed=4))
    assert sqnr(gaussian(48, 256, seed=4), target.dequantize()) > 18
    target.copy_(example("int8_rowwise", seed=5))
    assert sqnr(example("int8_rowwise", seed=5).dequantize(), target.dequantize()) > 18
    plain = torch.zeros(48, 256)
    plain.copy_(target)
    assert torch.equal(plain, target.dequantize())


def test_q06_raw_numbers_are_copied_raw() -> None:
    target = example("float8_e4m3fn")
    raw = gaussian(48, 256, seed=3).to(torch.float8_e4m3fn)
    scale = target._layout_params["scale"]
    target.copy_(raw)
    assert torch.equal(target.dequantize(), raw.float() * scale)


def test_q06_empty_like_and_the_rest() -> None:
    weight = example("nvfp4")
    found = torch.empty_like(weight, dtype=torch.float16)
    assert isinstance(found, QuantizedTensor)
    assert found.dtype == torch.float16
    assert found._qdata.shape == weight._qdata.shape
    assert torch.empty_like(weight, device="meta").is_meta
    assert not isinstance(torch.empty_like(weight, dtype=torch.int64), QuantizedTensor)
    assert torch._has_compatible_shallow_copy_type(weight, found)
    assert isinstance(weight.detach(), QuantizedTensor)


def test_q06_data_of_a_parameter_may_be_replaced() -> None:
    weight = nn.Parameter(example("int8_rowwise"), requires_grad=False)
    other = example("nf4", seed=8)
    weight.data = other
    assert isinstance(weight, nn.Parameter)
    assert torch.equal(weight.dequantize(), other.dequantize())
    assert isinstance(weight.data, QuantizedTensor)


@pytest.mark.parametrize("name", BUILT_IN)
def test_q07_operations_equal_those_of_the_dequantized_weight(name: str) -> None:
    weight, x, bias = example(name), gaussian(7, 256, seed=1), gaussian(48, seed=2)
    dense = weight.dequantize()
    with computing(full_precision=True), torch.inference_mode():
        for found, exact in (
            (aten.linear.default(x, weight, bias), F.linear(x, dense, bias)),
            (aten.addmm.default(bias, x, weight.t()), torch.addmm(bias, x, dense.t())),
            (torch.addmm(bias, x, weight.t(), beta=0.5, alpha=2), torch.addmm(bias, x, dense.t(), beta=0.5, alpha=2)),
            (aten.mm.default(x, weight.t()), x @ dense.t()),
            (gaussian(3, 48) @ weight, gaussian(3, 48) @ dense),
            (aten.view.default(weight, [48, 16, 16]).dequantize(), dense.view(48, 16, 16)),
            (aten.t.default(weight).dequantize(), dense.t()),
        ):
            assert torch.allclose(found, exact, rtol=1e-4, atol=1e-3)


def test_q07_a_gradient_passes_through_to_the_inputs() -> None:
    weight, x = example("int8_rowwise"), gaussian(3, 256).requires_grad_()
    F.linear(x, weight).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, weight.dequantize().sum(0).expand(3, -1), atol=1e-3)


def _cpu_product(x: Tensor, weight: Tensor, scale_a: Tensor, scale_b: Tensor, out_dtype: torch.dtype) -> Tensor:
    assert x.is_contiguous()
    assert scale_a.dtype == scale_b.dtype == torch.float32
    return ((x.float() * scale_a) @ (weight.float() * scale_b)).to(out_dtype)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e4m3fn_rowwise", "float8_e5m2", "float8_e5m2_rowwise"])
def test_q10_both_in_float8_are_multiplied_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.dtype] = []

    def product(*args: object, **kwargs: object) -> Tensor:
        calls.append(args[0].dtype)  # type: ignore[attr-defined]
        return _cpu_product(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "_scaled_mm", product)
    inputs = name if "e4m3" in name else name.replace("e5m2", "e4m3fn")
    weight, x, bias = example(name), quantize(gaussian(6, 256, seed=1), inputs), gaussian(48)
    exact = F.linear(x.dequantize(), weight.dequantize(), bias)
    with computing(fp8=True), torch.inference_mode():
        found = F.linear(x, weight, bias)
        assert sqnr(exact, found) > 100
        assert len(calls) == 1
        if not name.endswith("rowwise"):
            deep = F.linear(quantize(gaussian(2, 3, 256, seed=1), inputs), weight, bias)
            assert deep.shape == (2, 3, 48)
            assert sqnr(exact, deep.reshape(6, 48)) > 100
        assert F.linear(x.to(torch.bfloat16), weight, bias).dtype == torch.bfloat16
    assert set(calls) == {torch.float8_e4m3fn}


def test_q10_what_the_product_does_not_take_is_dequantized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_scaled_mm", lambda *_, **__: pytest.fail("was called"))
    with computing(fp8=True):
        for rows, columns in ((48, 250), (47, 256)):
            weight = quantize(gaussian(rows, columns), "float8_e4m3fn", activations="dynamic")
            assert F.linear(gaussian(3, columns), weight).shape == (3, rows)
        e5m2 = gaussian(16, 16).to(torch.float8_e5m2)
        one = torch.tensor(1.0)
        assert fp8_product(e5m2, one, e5m2, one, torch.float32) is None


def test_q10_an_old_torch_answers_with_a_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_scaled_mm", lambda *a, **k: (_cpu_product(*a, **k), torch.tensor(1.0)))
    weight, x = quantize(gaussian(32, 64), "float8_e4m3fn", activations="dynamic"), gaussian(4, 64, seed=1)
    with computing(fp8=True):
        assert sqnr(F.linear(x, weight.dequantize()), F.linear(x, weight)) > 28


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA device")
def test_q10_on_a_device_with_float8_the_product_is_near() -> None:
    weight, x = gaussian(4096, 4096).cuda().bfloat16(), gaussian(4096, 4096, seed=1).cuda().bfloat16()
    if not matmul.multiplies_fp8(weight.device):
        pytest.skip("the device has no float8")
    found = F.linear(x, quantize(weight, "float8_e4m3fn", activations="dynamic"))
    assert F.cosine_similarity(found.float().flatten(), F.linear(x, weight).float().flatten(), 0) > 0.999


def test_q11_whichever_is_quantized_is_dequantized() -> None:
    weight, x = gaussian(48, 256), quantize(gaussian(3, 256), "float8_e4m3fn")
    with counting_fallbacks() as fallbacks:
        assert torch.allclose(F.linear(x, weight), F.linear(x.dequantize(), weight))
        both = F.linear(x, quantize(weight, "nf4"))
    assert torch.allclose(both, F.linear(x.dequantize(), quantize(weight, "nf4").dequantize()), atol=1e-4)
    assert not fallbacks.counts


@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e4m3fn_rowwise", "float8_e5m2", "mxfp8", "nvfp4", "int8_rowwise"]
)
def test_q12_inputs_are_rounded_where_that_is_said(name: str) -> None:
    weight, x = gaussian(48, 256), gaussian(9, 256, seed=1)
    exact = F.linear(x, quantize(weight, name).dequantize())
    only_weight = quantize(weight, name, activations="none")
    dynamic = quantize(weight, name, activations="dynamic")
    fixed = quantize(
        weight, name, input_scale=x.abs().max() / (448 * 6 if name == "nvfp4" else 127 if "int8" in name else 448)
    )
    with computing(emulate=True):
        assert sqnr(exact, F.linear(x, only_weight)) > 100
        least = 18 if name == "nvfp4" else 25
        assert least < sqnr(exact, F.linear(x, dynamic)) < 60
        assert least < sqnr(exact, F.linear(x, fixed)) < 60
        far = F.linear(x * 1000, fixed)
        assert far.isfinite().all()
        with computing(full_precision=True):
            assert sqnr(exact, F.linear(x, dynamic)) > 100
        kept = quantize(weight, name, activations="dynamic", full_precision=True)
        assert sqnr(exact, F.linear(x, kept)) > 100
    if "int8" not in name:  # no fast path here, so nothing is rounded for nothing
        assert sqnr(exact, F.linear(x, dynamic)) > 100


def test_q12_emulation_computes_what_the_product_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_scaled_mm", _cpu_product)
    x = gaussian(8, 256, seed=1)
    for name in ("float8_e4m3fn", "float8_e4m3fn_rowwise", "float8_e5m2", "float8_e5m2_rowwise"):
        weight = quantize(gaussian(48, 256), name, activations="dynamic")
        with computing(emulate=True):
            emulated = F.linear(x, weight)
        with computing(fp8=True):
            assert sqnr(emulated, F.linear(x, weight)) > 90


@pytest.mark.parametrize(
    ("device", "answer"),
    [
        (Compute(True, (9, 0), (2, 1)), True),
        (Compute(True, (10, 0), (2, 4), windows=True), True),
        (Compute(True, (8, 9), (2, 3)), True),
        (Compute(True, (8, 9), (2, 2)), False),
        (Compute(True, (8, 9), (2, 3), windows=True), False),
        (Compute(True, (8, 9), (2, 4), windows=True), True),
        (Compute(True, (8, 6), (2, 9)), False),
        (Compute(False, (9, 4), (2, 9)), False),
    ],
)
def test_q18_which_devices_multiply_float8(device: Compute, answer: bool) -> None:
    assert supports_fp8(device) is answer


def test_q18_it_can_be_overruled() -> None:
    cpu = torch.device("cpu")
    assert not matmul.multiplies_fp8(cpu)
    with computing(fp8=True):
        assert matmul.multiplies_fp8(cpu)
        with computing(fp8=False):
            assert not matmul.multiplies_fp8(cpu)
    assert not matmul.multiplies_fp8(cpu)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "int8_tensorwise", "nvfp4", "mxfp8"])
def test_q19_bytes_under_another_name_are_seen_as_what_they_are(name: str) -> None:
    weight, layout = example(name), REGISTRY[name]
    stored = {
        key: one.view(torch.uint8) if one.element_size() == 1 else one
        for key, one in layout.to_file(weight.parts).items()
    }
    assert torch.equal(layout.dequantize(layout.from_file(stored, torch.float32)), weight.dequantize())


@pytest.mark.parametrize("name", [name for name in BUILT_IN if not name.startswith("gguf")])
def test_q20_the_names_beside_a_weight_are_known_to_every_layout(name: str) -> None:
    weight = quantize(gaussian(48, 256), name, input_scale=0.1, pre_quant_scale=torch.full((256,), 0.5))
    stored = REGISTRY[name].to_file(weight.parts)
    assert {"weight", "weight_scale", "input_scale", "pre_quant_scale"} <= stored.keys()
    assert ("weight_scale_2" in stored) == (name in ("nvfp4", "nf4_double"))
    again = REGISTRY[name].from_file(stored, torch.float32, **weight.parts.plain)
    assert torch.equal(REGISTRY[name].dequantize(again), weight.dequantize())
    x = gaussian(2, 256)
    assert sqnr(F.linear(x, weight.dequantize()), F.linear(x, QuantizedTensor.of(REGISTRY[name], again))) > 15


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_q21_a_scale_may_be_a_number_or_a_list_of_one(shape: tuple[int, ...]) -> None:
    weight, layout = example("float8_e4m3fn"), REGISTRY["float8_e4m3fn"]
    stored = layout.to_file(weight.parts)
    stored = {**stored, "weight_scale": stored["weight_scale"].reshape(shape), "input_scale": torch.ones(shape)}
    again = layout.from_file(stored, torch.float32)
    assert torch.equal(layout.dequantize(again), weight.dequantize())
    assert again.tensors["input_scale"].shape == ()


def test_q28_the_weight_alone_decides_its_scale() -> None:
    a, b = gaussian(8, 64), gaussian(8, 64, seed=1) * 100
    assert torch.equal(quantize(a, "float8_e4m3fn")._layout_params["scale"], a.abs().max() / 448)
    assert torch.equal(quantize(b, "float8_e4m3fn")._layout_params["scale"], b.abs().max() / 448)


def test_an_unknown_layout_is_refused_with_the_nearest() -> None:
    with pytest.raises(NotFound, match="float8_e4m3fn"):
        quantize(gaussian(2, 2), "float8_e4m3")


class _Halves(Layout):
    """Numbers as float16: a toy."""

    name = "toy_halves"
    storage = torch.float16
    least_sqnr = 60.0

    def encode(self, matrix: Tensor, rounding: Rounding, scale: Tensor | None, **options: object) -> tuple:
        return matrix.half(), {}, {}

    def decode(self, parts: Parts) -> Tensor:
        return parts.numbers.float().reshape(parts.rows, -1)

    def half_steps(self, parts: Parts) -> Tensor:
        return self.decode(parts).abs() * 2**-11


def test_a_layout_may_come_and_go_at_run_time() -> None:
    registry = Registry()
    toy = registry.register(_Halves(), "toy")
    assert registry["toy"] is registry["toy_halves"] is toy
    assert "nf4" in registry
    with pytest.raises(BadInput, match="is there already"):
        registry.register(_Halves())
    registry.unregister("toy_halves")
    assert "toy" not in registry
    assert sqnr(gaussian(9, 9), toy.dequantize(toy.quantize(gaussian(9, 9)))) > 60
