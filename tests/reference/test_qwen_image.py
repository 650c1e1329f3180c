"""Qwen-Image against the diffusers library, whose names for the tensors are those of the published files."""

import pytest
import torch

from benchmarks._live_bytes import peak_of
from limner.models.qwen_image import patched
from tests.reference.make import apart, ours, seeded

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: nothing to compare with")


def theirs() -> torch.nn.Module:
    """Two layers, four heads."""
    return seeded(
        diffusers.QwenImageTransformer2DModel(
            num_layers=2, attention_head_dim=32, num_attention_heads=4, joint_attention_dim=48,
            axes_dims_rope=(4, 14, 14),
        )
    )  # fmt: skip


def packed(*pictures: torch.Tensor) -> dict[str, object]:
    """Pictures as diffusers takes them: patches, and the grid of each."""
    found = [patched(picture) for picture in pictures]
    grids = [grid for _, grid in found]
    return {
        "hidden_states": torch.cat([tokens for tokens, _ in found], dim=1),
        "img_shapes": [grids] * len(pictures[0]),
        "return_dict": False,
    }


@pytest.mark.parametrize("others", [(), ((8, 12),), ((8, 8), (4, 12))], ids=["base", "edit", "edit of two"])
def test_the_network_computes_what_diffusers_does(others: tuple[tuple[int, int], ...]) -> None:
    reference = theirs()
    torch.manual_seed(1)
    pictures = [torch.randn(2, 16, 1, *size) for size in ((12, 16), *others)]
    time, text = torch.tensor([0.75, 0.125]), torch.randn(2, 7, 48)
    with torch.inference_mode():
        expected = reference(encoder_hidden_states=text, timestep=time, **packed(*pictures))[0]
        found = ours(reference.state_dict())(pictures[0], time, context=text, ref_latents=pictures[1:])
    found = patched(found)[0]
    assert apart(found, expected[:, : found.shape[1]]) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_network_needs_less_memory_than_diffusers(dtype: torch.dtype) -> None:
    reference = theirs().to(dtype)
    network = ours(reference.state_dict())
    x, time, text = torch.randn(1, 16, 1, 40, 40, dtype=dtype), torch.tensor([0.5]), torch.randn(1, 16, 48, dtype=dtype)
    most = peak_of(reference, encoder_hidden_states=text, timestep=time, module=reference, **packed(x))
    least = peak_of(network, x, time, context=text, module=network)
    assert least < 0.45 * most
