"""The fast ways compute what the plain ones do: tables of codes, inputs in int8 and float8, sums scaled where they lie."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import quant_gpu
from limner.weights.quant import QuantizedTensor, matmul, quantize, sqnr
from limner.weights.quant.gguf_blocks import IQ4_VALUES
from limner.weights.quant.layouts.nf4 import VALUES
from limner.weights.quant.lookup import bits_of, bytes_as, float8_as_float, nibbles_as
from limner.weights.quant.matmul import (
    IN_CACHE,
    Compute,
    fp8_product,
    fp8_rounded,
    patches,
    rounded_rows,
    scaled_sums,
    scales_fp8_rows,
)

CODES = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_float8_becomes_the_float_that_torch_makes_of_it(dtype: torch.dtype) -> None:
    numbers = CODES.view(dtype)
    exact = numbers.float()
    assert torch.equal(float8_as_float(numbers).view(torch.int32), exact.view(torch.int32))  # NaN and −0 too
    for cut in (numbers[1:], numbers[1:-1], numbers[::2], numbers.view(16, 16).t(), numbers[:0]):
        assert torch.equal(float8_as_float(cut).view(torch.int32), cut.float().view(torch.int32))


def test_codes_of_four_bits_become_their_values() -> None:
    packed = CODES.view(16, 16)[:, 1:]
    halves = torch.stack((packed & 15, packed >> 4), -1).flatten(1)
    assert torch.equal(nibbles_as(packed, VALUES), torch.tensor(VALUES)[halves.long()])
    codes = CODES[:16].repeat(3).view(6, 8)
    assert torch.equal(bytes_as(codes, IQ4_VALUES), torch.tensor(IQ4_VALUES)[codes.long()])


def test_bits_come_lowest_first() -> None:
    exact = [[byte >> bit & 1 for byte in pair for bit in range(8)] for pair in CODES.view(-1, 2).tolist()]
    assert bits_of(CODES.view(-1, 2)).tolist() == exact


def test_tables_that_inference_made_serve_elsewhere() -> None:
    with torch.inference_mode():
        weight = quantize(torch.randn(4, 64), "nf4")
        inferred = weight.dequantize()
    assert torch.equal(quantize(inferred.clone(), "nf4").dequantize(), inferred)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 5, IN_CACHE // 32 + 3])
def test_rows_are_rounded_to_the_nearest_each_by_its_largest(rows: int, dtype: torch.dtype) -> None:
    x = torch.randn(rows, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[0] = 0
    numbers, scale = rounded_rows(x, None)
    assert numbers.dtype == torch.int8
    assert torch.equal(numbers[1:].abs().amax(1), torch.full((rows - 1,), 127, dtype=torch.int8))
    assert ((numbers * scale - x.float()).abs() <= scale * 0.5001).all()
    assert not numbers[0].any()


def test_a_fixed_scale_cuts_off_on_both_sides() -> None:
    numbers, scale = rounded_rows(torch.tensor([[-9.0, -0.5, 0.26, 9.0]]), torch.tensor(0.01))
    assert numbers.tolist() == [[-127, -50, 26, 127]]
    assert scale == 0.01


@pytest.mark.parametrize("columns", [7, IN_CACHE + 1])
@pytest.mark.parametrize("bias", [True, False])
def test_sums_are_scaled_as_they_are_written(columns: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    sums = torch.randint(-(1 << 20), 1 << 20, (3, columns), generator=generator, dtype=torch.int32)
    by_row, by_column = torch.rand(3, 1, generator=generator), torch.rand(columns, generator=generator)
    added = torch.randn(columns, generator=generator) if bias else None
    for scale_x in (by_row, by_row[:1]):
        exact = sums.double() * scale_x * by_column + (0 if added is None else added)
        found = scaled_sums(sums.clone(), scale_x, by_column, added)
        assert found.dtype == torch.float32
        assert torch.allclose(found.double(), exact, rtol=1e-5, atol=1e-3)


def test_no_rows_are_no_rows() -> None:
    layer = quantize(torch.randn(32, 64), "int8_dynamic")
    assert F.linear(torch.randn(0, 64), layer).shape == (0, 32)
    assert scaled_sums(torch.empty(0, 4, dtype=torch.int32), torch.ones(1), torch.ones(4), None).shape == (0, 4)


def _layer(kernel: int, activations: str = "dynamic", **options: object) -> tuple[Tensor, QuantizedTensor]:
    weight = torch.randn(24, 16, kernel, kernel, generator=torch.Generator().manual_seed(1))
    return weight, quantize(weight, "int8_dynamic", activations=activations, **options)


@pytest.mark.skipif(not matmul.multiplies_int8_on_cpu(), reason="floats are as fast on this processor")
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1)])
def test_int8_convolutions_are_near_in_either_order_of_memory(
    kernel: int, stride: int, padding: int, memory: torch.memory_format
) -> None:
    x = torch.randn(2, 16, 10, 12, generator=torch.Generator().manual_seed(0))
    x[1] *= 100  # a picture's scale is its own
    weight, packed = _layer(kernel)
    bias = torch.randn(24)
    exact = F.conv2d(x, weight, bias, stride, padding)
    found = F.conv2d(x.contiguous(memory_format=memory), packed, bias, stride, padding)
    assert found.shape == exact.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(exact, found, strict=True):
        assert sqnr(one, other) > 36
    fixed = _layer(kernel, input_scale=float(x.abs().max()) / 127)[1]
    assert sqnr(exact[1], F.conv2d(x.contiguous(memory_format=memory), fixed, bias, stride, padding)[1]) > 36


def test_kernels_of_one_see_the_picture_itself() -> None:
    x = torch.randn(2, 5, 6, 3)
    assert patches(x, (1, 1), (1, 1), (0, 0), (1, 1)).data_ptr() == x.data_ptr()
    assert patches(x, (1, 1), (2, 2), (0, 0), (1, 1)).shape == (2, 3, 3, 3)


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_inputs_in_float8_are_as_near_as_float8_is(dtype: torch.dtype, by_row: bool) -> None:
    x = torch.randn(8, 256, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[3] = 0
    numbers, scale = fp8_rounded(x, None, by_row)
    assert scale.numel() == (8 if by_row else 1)
    assert sqnr(x.float(), numbers.float() * scale) > 30.5
    cut, _ = fp8_rounded(x * 1000, torch.tensor(1.0), by_row)
    assert cut.float().abs().max() == 448
    assert cut.float().isfinite().all()


@pytest.mark.parametrize(
    ("device", "answer"),
    [
        (Compute(True, (9, 0), (2, 5)), True),
        (Compute(True, (9, 0), (2, 4)), False),
        (Compute(True, (8, 9), (2, 9)), False),
        (Compute(False, (9, 0), (2, 9)), False),
    ],
)
def test_which_devices_scale_rows_within_a_product(device: Compute, answer: bool) -> None:
    assert scales_fp8_rows(device) is answer


def test_a_device_that_scales_rows_is_given_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.Size, torch.Size, torch.dtype]] = []

    def product(x: Tensor, other: Tensor, *, scale_a: Tensor, scale_b: Tensor, out_dtype: torch.dtype) -> Tensor:
        seen.append((scale_a.shape, scale_b.shape, out_dtype))
        return ((x.float() @ other.float()) * scale_a * scale_b).to(out_dtype)

    monkeypatch.setattr(torch, "_scaled_mm", product)
    monkeypatch.setattr(matmul, "_compute", lambda _: Compute(True, (9, 0), (2, 9)))
    x, weight = torch.randn(6, 32), torch.randn(16, 32)
    (numbers, scale), (packed, by) = fp8_rounded(x, None, by_row=True), fp8_rounded(weight, None, by_row=True)
    exact = (numbers.float() * scale) @ (packed.float() * by).t()
    for scale_x, out in ((scale, torch.bfloat16), (scale[0], torch.bfloat16), (scale, torch.float32)):
        found = fp8_product(numbers, scale_x, packed, by, out)
        assert found is not None
        rows = slice(0, 1) if scale_x.numel() == 1 else slice(None)
        assert sqnr(exact[rows], found.float()[rows]) > 40
    assert seen == [((6, 1), (1, 16), torch.bfloat16)] * 2 + [((), (), torch.float32)]


def test_the_benchmark_for_a_gpu_runs_tiny_on_a_processor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, backend: network)  # which takes longer than all the rest
    quant_gpu.main(["--tiny"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["layout"] for line in lines} == {*quant_gpu.LAYOUTS, "torchao"}
    near = [line["cosine"] for line in lines if "cosine" in line]
    assert len(near) >= 8
    assert min(near) > 0.998
