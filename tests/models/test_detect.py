"""What is said of a file that no family claims."""

import pytest

from limner.errors import BadInput
from limner.models.detect import detect
from limner.weights import CheckpointHeader
from tests.models.checkpoints import real_header


def refusal(header: CheckpointHeader) -> BadInput:
    with pytest.raises(BadInput, match="no known diffusion model") as caught:
        detect(header)
    return caught.value


def without(name: str, *lost: str) -> CheckpointHeader:
    return real_header(name).rename(lambda key: None if key.startswith(lost) else key)


@pytest.mark.parametrize(
    ("name", "lost", "said"),
    [
        ("flux-dev", "final_layer.", "Flux (3 of 4 marks; lacking: final_layer.adaLN_modulation.1.weight)"),
        ("chroma", "img_in.", "Chroma (4 of 5 marks; lacking: img_in.weight)"),
        ("sd3-medium", "model.diffusion_model.pos_embed", "Stable Diffusion 3 (5 of 6 marks; lacking: pos_embed)"),
    ],
)
def test_a_truncated_file_is_named_as_the_nearest_family_and_what_it_lacks(name, lost, said):
    assert refusal(without(name, lost)).why == f"Closest is {said}."


@pytest.mark.parametrize("name", ["te-t5xxl", "te-qwen2.5-vl-7b", "te-clip-l"])
def test_a_text_encoder_is_near_no_family_for_what_it_does_not_have(name):
    error = refusal(real_header(name))
    assert error.why == "No known family has tensors of such names."
    assert "Load CLIP" in error.do


def test_a_vae_is_told_where_it_belongs():
    error = refusal(real_header("vae-flux"))
    assert error.why == "No known family has tensors of such names."
    assert "Load VAE" in error.do
