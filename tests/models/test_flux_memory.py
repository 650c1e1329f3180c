"""The memory of Flux's blocks: what lives at the worst moment, held against the straightforward order."""

import pytest
import torch

from benchmarks import _straightforward as plain
from benchmarks._live_bytes import peak_of
from limner.models.layers.hooks import Hooks
from limner.models.layers.rope import grid_ids, rotation
from limner.models.layers.streams import DoubleStreamBlock, SingleStreamBlock

AXES = (8, 12, 12)


def parts(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Patches, text, the vector and the rotations of both."""
    torch.manual_seed(1)
    image, text = torch.randn(1, 240, 64, dtype=dtype), torch.randn(1, 16, 64, dtype=dtype)
    ids = torch.cat((torch.zeros(1, 16, 3), grid_ids(15, 16, {})), dim=1)
    return image, text, torch.randn(1, 64, dtype=dtype), rotation(ids, AXES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_block_of_two_streams_is_within_a_seventh_of_its_floor(dtype: torch.dtype) -> None:
    image, text, vector, pe = parts(dtype)
    torch.manual_seed(0)
    block = DoubleStreamBlock(64, 2, 4.0, qkv_bias=True).to(dtype).eval()
    least = peak_of(block.over, image, text, vector, pe, None, Hooks({}), module=block)
    most = peak_of(plain.flux_double, block, image, text, vector, pe, module=block)
    assert least <= 1.15 * 5 * image.nbytes
    assert least < 0.35 * most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_block_of_one_stream_is_within_a_seventh_of_its_floor(dtype: torch.dtype) -> None:
    image, text, vector, pe = parts(dtype)
    torch.manual_seed(0)
    block, x = SingleStreamBlock(64, 2).to(dtype).eval(), torch.cat((text, image), dim=1)
    least = peak_of(block.over, x, vector, pe, None, Hooks({}), module=block)
    most = peak_of(plain.flux_single, block, x, vector, pe, module=block)
    assert least <= 1.15 * 5 * x.nbytes
    assert least < 0.35 * most


@torch.inference_mode()
def test_blocks_compute_what_the_straightforward_order_does() -> None:
    image, text, vector, pe = parts(torch.float32)
    torch.manual_seed(0)
    double, single = DoubleStreamBlock(64, 2, 4.0, qkv_bias=True).eval(), SingleStreamBlock(64, 2).eval()
    found, expected = double(image, text, vector, pe), plain.flux_double(double, image, text, vector, pe)
    assert all(torch.allclose(one, other, atol=2e-6) for one, other in zip(found, expected, strict=True))
    both = torch.cat((text, image), dim=1)
    assert torch.allclose(single(both, vector, pe), plain.flux_single(single, both, vector, pe), atol=2e-6)
