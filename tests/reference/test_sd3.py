"""Stable Diffusion 3 against the diffusers library, by way of its names for the tensors."""

import pytest
import torch

from benchmarks._live_bytes import peak_of
from tests.reference.make import apart, ours, seeded

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: nothing to compare with")

KINDS = {
    "sd3": {},
    "sd35-large": {"qk_norm": "rms_norm"},
    "sd35-medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
}


def theirs(kind: str) -> torch.nn.Module:
    """Three layers, two heads."""
    return seeded(
        diffusers.SD3Transformer2DModel(
            sample_size=32, num_layers=3, num_attention_heads=2, joint_attention_dim=48, caption_projection_dim=128,
            pooled_projection_dim=24, pos_embed_max_size=16, **KINDS[kind],
        )
    )  # fmt: skip


def inputs(height: int, width: int, tokens: int = 11) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return (
        torch.randn(2, 16, height, width),
        torch.tensor([900.0, 30.0]),
        torch.randn(2, tokens, 48),
        torch.randn(2, 24),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_computes_what_diffusers_does(kind: str) -> None:
    reference = theirs(kind)
    x, time, text, vector = inputs(12, 20)
    with torch.inference_mode():
        expected = reference(x, text, vector, time).sample
        found = ours(reference.state_dict())(x, time, context=text, y=vector)
    assert apart(found, expected) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_needs_less_memory_than_diffusers(kind: str) -> None:
    reference = theirs(kind)
    network = ours(reference.state_dict())
    x, time, text, vector = inputs(32, 32)
    most = peak_of(reference, x, text, vector, time, module=reference)
    least = peak_of(network, x, time, context=text, y=vector, module=network)
    assert least < 0.7 * most


def test_control_residuals_are_spread_as_diffusers_does() -> None:
    reference = theirs("sd3")
    x, time, text, vector = inputs(8, 8)
    residuals = list(torch.randn(2, 2, 16, 128))
    with torch.inference_mode():
        expected = reference(x, text, vector, time, block_controlnet_hidden_states=residuals).sample
        found = ours(reference.state_dict())(x, time, context=text, y=vector, control={"output": residuals})
    assert apart(found, expected) < 1e-4
