"""Vision encoders against the transformers library, whose names for the tensors are the files'."""

import pytest
import torch

from benchmarks._live_bytes import peak_of
from limner.models.vision.kind import recognise
from limner.weights import CheckpointHeader
from tests.reference.make import apart, seeded

transformers = pytest.importorskip("transformers", reason="transformers is not installed: nothing to compare with")

COMMON = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
}  # fmt: skip


def ours(reference: torch.nn.Module, **config: object) -> torch.nn.Module:
    """Our network of the kind that claims the reference's tensors, with their values."""
    match = recognise(CheckpointHeader.of(reference.state_dict()))
    assert match is not None
    kind, part = match
    made = kind.network(kind.infer_config(part, {"num_attention_heads": 4, **config}))
    made.load_state_dict({name: part.tensor(name) for name in made.state_dict()})
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
@torch.inference_mode()
def test_clips_vision_encoder_computes_what_transformers_does(act: str) -> None:
    config = transformers.CLIPVisionConfig(**COMMON, image_size=56, patch_size=14, projection_dim=40, hidden_act=act)
    reference = seeded(transformers.CLIPVisionModelWithProjection(config))
    pixels = torch.randn(2, 3, 56, 56)
    expected = reference(pixels, output_hidden_states=True)
    found = ours(reference, hidden_act=act)(pixels, intermediate_output=-2)
    assert apart(found.last, expected.last_hidden_state) < 1e-4
    assert apart(found.layer, expected.hidden_states[-2]) < 1e-4
    assert apart(found.embeds, expected.image_embeds) < 1e-4


@torch.inference_mode()
def test_siglips_vision_encoder_computes_what_transformers_does() -> None:
    # 60 pixels are no multiple of 14: as with 384, what is over is not seen
    config = transformers.SiglipVisionConfig(**COMMON, image_size=60, patch_size=14)
    reference = seeded(transformers.SiglipVisionModel(config))
    pixels = torch.randn(2, 3, 60, 60)
    expected = reference(pixels, output_hidden_states=True)
    network = ours(reference, image_size=60, layer_norm_eps=1e-6)
    assert network.config.image_size == 60
    found = network(pixels, intermediate_output="all")
    assert apart(found.last, expected.last_hidden_state) < 1e-4
    for number in range(3):
        assert apart(found.layer[:, number], expected.hidden_states[number + 1]) < 1e-4


def test_encoding_holds_no_more_than_transformers_does() -> None:
    config = transformers.CLIPVisionConfig(**COMMON, image_size=56, patch_size=14, projection_dim=40)
    reference = seeded(transformers.CLIPVisionModelWithProjection(config)).requires_grad_(False)
    network, pixels = ours(reference), torch.randn(2, 3, 56, 56)
    assert peak_of(network, pixels, module=network) <= peak_of(reference, pixels, module=reference)
