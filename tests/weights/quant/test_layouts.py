"""What every layout keeps: it is taken through all of this by being there."""

import copy
import io
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from limner.errors import BadInput
from limner.weights.quant import (
    REGISTRY,
    QuantizedTensor,
    computing,
    counting_fallbacks,
    quantize,
    requantize,
    sqnr,
)
from tests.weights.quant.make import BUILT_IN, WRITTEN, example, gaussian

BYTES = {"float8": 1.01, "int8": 1.02, "mxfp8": 1.04, "int4": 0.57, "nf4": 0.57, "nvfp4": 0.57}


def test_the_layouts_of_the_issue_are_all_there() -> None:
    wanted = {
        "float8_e4m3fn", "float8_e4m3fn_rowwise", "float8_e5m2", "float8_e5m2_rowwise", "int8_tensorwise", "int8_rowwise",
        "int8_dynamic", "int8_smooth", "int4_groups", "nf4", "nf4_double", "mxfp8", "nvfp4",
        "gguf_q4_0", "gguf_q4_1", "gguf_q5_0", "gguf_q5_1", "gguf_q8_0", "gguf_q2_k", "gguf_q3_k", "gguf_q4_k",
        "gguf_q5_k", "gguf_q6_k", "gguf_iq4_nl", "gguf_iq4_xs",
    }  # fmt: skip
    assert wanted == set(BUILT_IN)


@pytest.mark.parametrize("name", WRITTEN)
def test_gaussian_numbers_come_back_as_well_as_the_layout_says(name: str) -> None:
    weight = gaussian(256, 1280)
    found = sqnr(weight, quantize(weight, name).dequantize())
    assert REGISTRY[name].least_sqnr <= found <= REGISTRY[name].least_sqnr + 3


@pytest.mark.parametrize("name", WRITTEN)
@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 5),
    blocks=st.integers(1, 3),
    scale=st.floats(-30, 15),
    spread=st.floats(0, 8),
    seed=st.integers(0, 1000),
)
def test_no_weight_is_further_off_than_the_bound(
    name: str, rows: int, blocks: int, scale: float, spread: float, seed: int
) -> None:
    weight = gaussian(rows, 64 * blocks, seed=seed) * 2.0**scale
    weight = weight * torch.exp2(gaussian(rows, 64 * blocks, seed=seed + 1) * spread).clamp(max=2.0**16)
    weight = weight.clamp(-6e4, 6e4)
    found = quantize(weight, name)
    bound = found.error_bound()
    assert bound is not None
    error = (found.dequantize() - weight).abs()
    assert bool((error <= bound + 1e-37).all()), (error / bound).max()


@pytest.mark.parametrize("name", [name for name in WRITTEN if not name.startswith("gguf")])
@pytest.mark.parametrize("columns", [1, 15, 33, 100])
def test_rows_need_not_fit_blocks(name: str, columns: int) -> None:
    weight = gaussian(6, columns)
    found = quantize(weight, name)
    assert found.shape == weight.shape == found.dequantize().shape
    assert bool(((found.dequantize() - weight).abs() <= found.error_bound()).all())  # type: ignore[operator]
    assert torch.allclose(F.linear(gaussian(2, columns), found), F.linear(gaussian(2, columns), weight), atol=3)


@pytest.mark.parametrize("name", WRITTEN)
def test_zeros_stay_zeros(name: str) -> None:
    assert not quantize(torch.zeros(4, 256), name).dequantize().any()


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_come_back_as_halves(name: str, dtype: torch.dtype) -> None:
    weight = (gaussian(8, 256) * 1e-4).to(dtype)
    found = quantize(weight, name)
    assert found.dtype == found.dequantize().dtype == dtype
    assert found.dequantize().isfinite().all()
    assert sqnr(weight, found.dequantize()) > REGISTRY[name].least_sqnr - 4


@pytest.mark.parametrize("name", WRITTEN)
def test_bytes_are_as_foretold_and_few(name: str) -> None:
    found = example(name, 1280, 1280)
    assert found.nbytes == REGISTRY[name].nbytes((1280, 1280))
    limit = next((most for kind, most in BYTES.items() if name.startswith(kind)), None)
    assert limit is None or found.nbytes <= 1280 * 1280 * limit


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_layer_computes_what_the_dequantized_weight_does(name: str, mode: type) -> None:
    weight, x, bias = example(name), gaussian(2, 5, 256, seed=3), gaussian(48, seed=4)
    exact = F.linear(x, weight.dequantize(), bias)
    rounded = REGISTRY[name].activations == "dynamic"
    with mode(), counting_fallbacks() as fallbacks:
        for found in (F.linear(x, weight, bias), x @ weight.t() + bias, torch.addmm(bias, x[0], weight.t())):
            assert sqnr(exact if found.ndim == 3 else exact[0], found) > (38 if rounded else 100)
    assert not fallbacks.counts


@pytest.mark.parametrize("name", BUILT_IN)
def test_inputs_decide_the_dtype_of_the_result(name: str) -> None:
    weight = example(name)
    for dtype in (torch.float32, torch.bfloat16):
        assert F.linear(gaussian(3, 256).to(dtype), weight.to(dtype), gaussian(48)).dtype == dtype


@pytest.mark.parametrize("name", [name for name in WRITTEN if not REGISTRY[name].matrices_only])
def test_a_convolution_computes_what_the_dequantized_weight_does(name: str) -> None:
    kernel = gaussian(32, 32, 3, 3) / 17
    weight, x, bias = quantize(kernel, name), gaussian(2, 32, 9, 7, seed=1), gaussian(32, seed=2)
    for options in ({}, {"padding": 1}, {"stride": 2, "padding": 1}, {"dilation": 2}):
        exact = F.conv2d(x, weight.dequantize(), bias, **options)  # type: ignore[arg-type]
        with counting_fallbacks() as fallbacks:
            found = F.conv2d(x, weight, bias, **options)  # type: ignore[arg-type]
        assert found.shape == exact.shape
        assert sqnr(exact, found) > (36 if REGISTRY[name].activations == "dynamic" else 100)
        assert not fallbacks.counts


@pytest.mark.parametrize("name", BUILT_IN)
def test_rows_are_taken_without_dequantizing(name: str) -> None:
    weight = example(name)
    dense = weight.dequantize()
    with counting_fallbacks() as fallbacks:
        parts = [weight[8:24], weight.narrow(0, 8, 16), weight.split([8, 16, 24])[1], weight.chunk(3)[0]]
        picked = weight.index_select(0, torch.tensor([3, 40]))
        embedded = F.embedding(torch.tensor([[1, 2], [0, 47]]), weight)
        row = weight[5]
    assert not fallbacks.counts
    for part, exact in zip(parts, (dense[8:24], dense[8:24], dense[8:24], dense[:16]), strict=True):
        assert isinstance(part, QuantizedTensor)
        assert torch.equal(part.dequantize(), exact)
        assert part.nbytes < weight.nbytes
    assert torch.equal(picked.dequantize(), dense[[3, 40]])
    assert torch.equal(embedded, dense[torch.tensor([[1, 2], [0, 47]])])
    assert torch.equal(row, dense[5])


@pytest.mark.parametrize("name", BUILT_IN)
def test_shapes_change_where_rows_stay(name: str) -> None:
    weight = example(name)
    dense = weight.dequantize()
    with counting_fallbacks() as fallbacks:
        for found, exact in (
            (weight.view(48, 16, 16), dense.view(48, 16, 16)),
            (weight.reshape(48, -1), dense),
            (weight.view(48, 256, 1, 1).squeeze(-1).squeeze(-1), dense),
            (weight.unsqueeze(1), dense.unsqueeze(1)),
            (weight.t().t(), dense),
            (weight.transpose(0, 1), dense.t()),
            (weight.mT, dense.t()),
        ):
            assert isinstance(found, QuantizedTensor)
            assert found.shape == exact.shape
            assert torch.equal(found.dequantize(), exact)
    assert not fallbacks.counts


@pytest.mark.parametrize("name", BUILT_IN)
def test_copies_are_alike_and_apart(name: str) -> None:
    weight = example(name)
    dense = weight.dequantize()
    saved = io.BytesIO()
    torch.save({"w": weight}, saved)
    saved.seek(0)
    copies = [
        weight.clone(),
        copy.deepcopy(weight),
        pickle.loads(pickle.dumps(weight)),
        torch.load(saved, weights_only=False)["w"],
        weight.to("cpu", copy=True),
    ]
    for one in copies:
        assert isinstance(one, QuantizedTensor)
        assert one.packing is weight.packing
        assert torch.equal(one.dequantize(), dense)
        assert one.data_ptr() != weight.data_ptr()


@pytest.mark.parametrize("name", BUILT_IN)
def test_it_is_flattened_and_put_together_again(name: str) -> None:
    weight = example(name).t()
    names, context = weight.__tensor_flatten__()
    inner = {one: getattr(weight, one) for one in names}
    again = QuantizedTensor.__tensor_unflatten__(inner, context, weight.shape, weight.stride())
    assert again.shape == weight.shape
    assert again.dtype == weight.dtype
    assert torch.equal(again.dequantize(), weight.dequantize())
    assert hash(context) == hash(example(name).t().__tensor_flatten__()[1])


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_module_holds_moves_and_loads_it(name: str) -> None:
    layer = nn.Linear(256, 48)
    layer.weight = nn.Parameter(example(name), requires_grad=False)
    dense = layer.weight.dequantize()
    assert isinstance(layer.weight, QuantizedTensor)
    assert isinstance(copy.deepcopy(layer).weight, nn.Parameter)
    layer.half()
    assert layer.weight.dtype == torch.float16
    assert isinstance(layer.weight, QuantizedTensor)
    layer.float()
    assert torch.equal(layer.weight.dequantize(), dense)
    other = nn.Linear(256, 48)
    other.weight = nn.Parameter(example(name, seed=5), requires_grad=False)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight.dequantize(), dense)
    assert layer.to("meta").weight.is_meta


@pytest.mark.parametrize("name", ["float8_e4m3fn", "int8_dynamic", "int8_smooth", "nf4", "nvfp4", "mxfp8", "gguf_q4_k"])
def test_a_compiled_layer_computes_the_same(name: str) -> None:
    layer = nn.Linear(256, 48)
    layer.weight = nn.Parameter(example(name), requires_grad=False)
    x = gaussian(4, 256)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.allclose(compiled(x), layer(x), atol=1e-4)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_changed_weight_goes_back_into_its_layout(name: str) -> None:
    weight = example(name)
    patched = weight.dequantize() * 3 + 0.25
    found = requantize(weight, patched)
    assert found.packing is weight.packing
    assert bool(((found.dequantize() - patched).abs() <= found.error_bound()).all())  # type: ignore[operator]


@pytest.mark.parametrize("name", WRITTEN)
def test_rounding_at_random_is_right_on_average_and_the_same_for_a_seed(name: str) -> None:
    weight = gaussian(4, 256)
    assert torch.equal(quantize(weight, name, seed=7).dequantize(), quantize(weight, name, seed=7).dequantize())
    found = torch.stack([quantize(weight, name, seed=seed).dequantize() for seed in range(1, 200)])
    assert not torch.equal(found[0], found[1])
    nearest = (quantize(weight, name).dequantize() - weight).square().mean()
    inside = weight.abs() < 0.7 * weight.abs().amax()  # the largest cannot be rounded up
    assert (found.mean(0) - weight)[inside].square().mean() < nearest / 8


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_file_holds_it_under_the_published_names(name: str) -> None:
    weight, layout = example(name), REGISTRY[name]
    stored = layout.to_file(weight.parts)
    assert set(stored) <= {"weight", "weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale"}
    again = layout.from_file(stored, torch.float32, **weight.parts.plain)
    assert torch.equal(layout.dequantize(again), weight.dequantize())


@pytest.mark.parametrize("name", [name for name in WRITTEN if not name.startswith("gguf")])
def test_what_a_file_cannot_mean_is_refused(name: str) -> None:
    weight, layout = example(name), REGISTRY[name]
    stored, plain = layout.to_file(weight.parts), weight.parts.plain
    with pytest.raises(BadInput, match="no weight"):
        layout.from_file({}, layer="x.q")
    with pytest.raises(BadInput, match="lacks weight_scale"):
        layout.from_file({key: one for key, one in stored.items() if key != "weight_scale"}, **plain)
    with pytest.raises(BadInput, match="shape"):
        layout.from_file({**stored, "weight_scale": stored["weight_scale"].new_ones(3, 5, 7)}, **plain)
    with pytest.raises(BadInput, match="dtype"):
        layout.from_file({**stored, "weight": stored["weight"].view(torch.int8).to(torch.int64)}, **plain)
    with pytest.raises(BadInput, match="shape"):
        layout.from_file(stored, shape=(47, 256), **plain)
    undefined = layout.expected((48, 256), **plain).tensors["scale"].dtype
    bad = [float("nan"), float("inf"), -1.0, 0.0] if undefined.is_floating_point else [255]
    if undefined == torch.float8_e4m3fn:
        bad = [float("nan"), -1.0]
    if name == "nf4":
        bad = [float("nan"), float("inf"), -1.0]
    if name == "nf4_double":
        bad = []
    for number in bad:
        scale = torch.full(stored["weight_scale"].shape, 1.0).to(undefined)
        scale.reshape(-1)[0] = number
        with pytest.raises(BadInput, match="no scales"):
            layout.from_file({**stored, "weight_scale": scale}, **plain)
    with pytest.raises(BadInput, match="no scales"):
        layout.from_file({**stored, "input_scale": torch.tensor(-1.0)}, **plain)
    with pytest.raises(BadInput, match=r"numbers|shape"):
        layout.from_file({**stored, "pre_quant_scale": torch.ones(17)}, **plain)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_cannot_be_quantized_is_refused(name: str) -> None:
    for tensor in (torch.tensor([[float("inf")] * 256]), torch.full((2, 256), float("nan"))):
        with pytest.raises(BadInput, match="infinite or undefined"):
            quantize(tensor, name)
    with pytest.raises(BadInput, match="16 bits or more"):
        quantize(torch.ones(2, 256, dtype=torch.int32), name)
    with pytest.raises(BadInput, match=r"single numbers|matrices only"):
        quantize(torch.tensor(1.0), name)
    with pytest.raises(BadInput, match="no option 'colour'"):
        quantize(gaussian(2, 256), name, colour=1)
    if REGISTRY[name].matrices_only:
        with pytest.raises(BadInput, match="matrices only"):
            quantize(gaussian(4, 4, 3, 3), name)


def test_a_layout_that_is_only_read_says_so() -> None:
    with pytest.raises(BadInput, match="only read"):
        quantize(gaussian(2, 256), "gguf_q4_k")
    with pytest.raises(BadInput, match="cannot be changed"):
        requantize(example("gguf_q6_k"), gaussian(48, 256))


def test_groups_of_four_bits_are_even_and_sixteen_at_least() -> None:
    assert quantize(gaussian(4, 64), "int4_groups", group=32)._layout_param_scale.shape == (4, 2)  # type: ignore[attr-defined]
    for group in (0, 15, 17, -32, "64"):
        with pytest.raises(BadInput, match="group"):
            quantize(gaussian(4, 64), "int4_groups", group=group)


def test_smoothing_makes_uneven_inputs_cheap() -> None:
    weight, x = gaussian(64, 256), gaussian(100, 256, seed=1)
    x[:, ::32] *= 60
    exact = F.linear(x, weight)
    plain = F.linear(x, quantize(weight, "int8_dynamic"))
    smooth = quantize(weight, "int8_smooth", input_amax=x.abs().amax(0))
    assert sqnr(weight, smooth.dequantize()) > 29
    assert sqnr(exact, F.linear(x, smooth)) > sqnr(exact, plain) + 3
    with computing(full_precision=True):
        assert sqnr(F.linear(x, smooth.dequantize()), F.linear(x, smooth)) > 100


@pytest.mark.parametrize("name", [one for one in REGISTRY if REGISTRY[one].row_by_row])
@pytest.mark.parametrize("shape", [(1, 64), (7, 100), (128,), (32, 16)])
def test_shapes_of_parts_are_known_without_numbers(name: str, shape: tuple[int, ...]) -> None:
    layout = REGISTRY[name]
    if layout.matrices_only and len(shape) != 2:
        pytest.skip("it holds matrices only")
    told, made = layout.expected(shape), layout.quantize(torch.randn(shape))
    assert told.plain == made.plain
    assert {key: (one.shape, one.dtype) for key, one in told.all_tensors().items()} == {
        key: (one.shape, one.dtype) for key, one in made.all_tensors().items()
    }


WITHOUT_COMPILER = """
import sys, torch
from limner.weights.quant import REGISTRY, QuantizedTensor, quantize
for layout in REGISTRY.values():
    if layout.writes:
        parts = quantize(torch.randn(64, 256), layout).parts
        read = layout.from_file(layout.to_file(parts), shape=(64, 256), **parts.plain)
        weight = torch.nn.Parameter(QuantizedTensor.of(layout, read), requires_grad=False)
        with torch.inference_mode():
            torch.nn.functional.linear(torch.randn(4, 256), weight)
print("torch._dynamo" in sys.modules)
"""


def test_a_quantized_weight_is_read_and_used_without_importing_torchs_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
