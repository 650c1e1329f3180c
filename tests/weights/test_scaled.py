"""Eight-bit weights with a scale beside them: kept in eight bits, and read as what they stand for."""

import pytest
import torch

from limner.errors import BadInput
from limner.weights import CheckpointHeader, save
from limner.weights.quant import QuantizedTensor
from limner.weights.quant.files import quantized

WEIGHT = torch.tensor([[1.0, -2.0, 0.5], [4.0, 0.25, -8.0]])


def layer(scale: torch.Tensor, name: str = "scale_weight") -> dict[str, torch.Tensor]:
    eight_bits = WEIGHT.to(torch.float8_e4m3fn)
    return {"a.weight": eight_bits, f"a.{name}": scale, "a.bias": torch.ones(2), "scaled_fp8": torch.zeros(2).to(
        torch.float8_e4m3fn), "a.scale_input": torch.ones(())}  # fmt: skip


@pytest.mark.parametrize("name", ["scale_weight", "weight_scale"])
def test_a_scaled_weight_is_kept_in_eight_bits_and_stands_for_their_product(tmp_path, name) -> None:
    save(tmp_path / "x.safetensors", layer(torch.tensor(0.5), name), {})
    header = quantized(CheckpointHeader.read(tmp_path / "x.safetensors"))
    weight = header.tensor("a.weight")
    assert isinstance(weight, QuantizedTensor)
    assert torch.equal(weight.dequantize(), (WEIGHT / 2).to(torch.bfloat16))
    assert header.dtype("a.weight") == weight.dtype == torch.bfloat16
    assert header.tensors["a.weight"].nbytes == weight.nbytes == 6 + 4
    assert set(header) == {"a.weight", "a.bias"}


def test_each_row_may_have_a_scale_of_its_own() -> None:
    header = quantized(CheckpointHeader.of(layer(torch.tensor([[2.0], [0.5]]))))
    assert torch.equal(header.tensor("a.weight").dequantize().float(), WEIGHT * torch.tensor([[2.0], [0.5]]))


def test_a_file_without_scales_is_itself() -> None:
    header = CheckpointHeader.of({"a.weight": WEIGHT.to(torch.float8_e4m3fn)})
    assert quantized(header) is header


def test_a_scale_without_a_weight_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"b\.scale_weight scales nothing"):
        quantized(CheckpointHeader.of({"b.scale_weight": torch.ones(())}))


def test_a_scale_of_another_shape_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"a: weight_scale has the shape \[3\]"):
        quantized(CheckpointHeader.of(layer(torch.ones(3))))
