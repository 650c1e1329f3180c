"""PixArt against the diffusers library, by way of its names for the tensors."""

import pytest
import torch

from benchmarks._live_bytes import peak_of
from tests.reference.make import apart, ours, seeded

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: nothing to compare with")


def theirs(alpha: bool) -> torch.nn.Module:
    """Two layers, two heads; made for pictures of 1024 pixels."""
    return seeded(
        diffusers.PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=8, num_layers=2, sample_size=128,
            cross_attention_dim=48, caption_channels=32, use_additional_conditions=alpha,
        )
    )  # fmt: skip


def inputs(alpha: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, torch.Tensor | None]]:
    torch.manual_seed(1)
    told = {"resolution": torch.tensor([[1024.0, 768.0]] * 2), "aspect_ratio": torch.tensor([[1.33]] * 2)}
    time = torch.tensor([10.0, 500.0])
    return torch.randn(2, 4, 64, 48), time, torch.randn(2, 7, 32), told if alpha else dict.fromkeys(told)


@pytest.mark.parametrize("alpha", [True, False], ids=["alpha", "sigma"])
@torch.inference_mode()
def test_the_network_computes_what_diffusers_does(alpha: bool) -> None:
    reference = theirs(alpha)
    x, time, text, told = inputs(alpha)
    expected = reference(x, text, time, added_cond_kwargs=told).sample[:, :4]
    found = ours(reference.state_dict(), num_heads=2)(
        x, time, text, c_size=told["resolution"], c_ar=told["aspect_ratio"]
    )
    assert apart(found, expected) < 1e-4


def test_the_network_needs_less_memory_than_diffusers() -> None:
    reference = theirs(False)
    network = ours(reference.state_dict(), num_heads=2)
    x, time, text, told = inputs(False)
    most = peak_of(reference, x, text, time, added_cond_kwargs=told, module=reference)
    assert peak_of(network, x, time, text, module=network) < most
