"""Chroma against the diffusers library's network of the same weights."""

import pytest
import torch

from limner.models import chroma
from limner.weights import CheckpointHeader
from limner.weights.targets import renamed

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: pip install diffusers")


@torch.inference_mode()
def test_chroma_agrees_with_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    theirs = diffusers.ChromaTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=2, num_single_layers=3, attention_head_dim=32, num_attention_heads=2,
        joint_attention_dim=24, axes_dims_rope=(8, 12, 12), approximator_num_channels=64,
        approximator_hidden_dim=48, approximator_layers=2,
    ).eval()  # fmt: skip
    header = CheckpointHeader.of(theirs.state_dict())
    converted = renamed(header, chroma.from_diffusers(header))
    config = chroma.FAMILY.infer_config(converted, {"num_heads": 2, "axes_dim": (8, 12, 12)})
    ours = chroma.Chroma(config).eval()
    ours.load_state_dict({name: converted.tensor(name) for name in ours.state_dict()})
    # diffusers makes as many rows as the depth asks for, the reference always 344; they agree at the published depth
    monkeypatch.setattr(chroma, "ROWS", 3 * 3 + 2 * 6 * 2 + 2)
    x, context = torch.randn(2, 16, 8, 6), torch.randn(2, 7, 24)
    time = torch.tensor([0.3, 0.9])
    found = ours(x, time, context)
    patches = x.view(2, 16, 4, 2, 3, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 12, 64)
    row, column = torch.meshgrid(torch.arange(4.0), torch.arange(3.0), indexing="ij")
    places = torch.stack((torch.zeros_like(row), row, column), dim=-1).flatten(0, 1)
    expected = theirs(
        hidden_states=patches, encoder_hidden_states=context, timestep=time, img_ids=places,
        txt_ids=torch.zeros(7, 3), return_dict=False,
    )[0]  # fmt: skip
    expected = expected.view(2, 4, 3, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
