"""Where transformers see the patches of a picture, told by a node."""

import json

import pytest
import torch

from limner.models.load import model_of
from limner.nodes.rope import scale_rope
from limner.sampling import CFGGuider, get_sampler
from limner.weights import CheckpointHeader
from tests.models.checkpoints import memory
from tests.models.make import TINY_FLUX, tiny_flux


@pytest.fixture(scope="module")
def model():
    config = {"num_heads": TINY_FLUX.num_heads, "axes_dim": TINY_FLUX.axes_dim}
    header = CheckpointHeader.of(tiny_flux().state_dict(), {"config": json.dumps({"unet": config})})
    return model_of(header, memory())


@torch.inference_mode()
def run(model):
    """A latent after two steps."""
    torch.manual_seed(3)
    noise = torch.randn(1, 16, 8, 6)
    prompts = [[[torch.randn(1, 5, 20), {"pooled_output": torch.randn(1, 12)}]] for _ in range(2)]
    guider = CFGGuider(model)
    guider.set_conds(*prompts)
    guider.set_cfg(2.0)
    return guider.sample(noise, torch.zeros_like(noise), get_sampler("euler"), torch.tensor((1.0, 0.5, 0.0)), seed=1)


@pytest.mark.parametrize(
    "changed", [{"scale_x": 2.0}, {"scale_y": 0.5}, {"shift_x": 4.0}, {"shift_y": -4.0}, {"shift_t": 3.0}], ids=str
)
def test_a_run_sees_the_patches_elsewhere_and_the_model_before_it_does_not(model, changed):
    plain = run(model)
    assert not torch.allclose(run(scale_rope(model, **changed)), plain, atol=1e-4)
    assert torch.equal(run(model), plain)


def test_patches_that_stay_where_they_are_change_nothing(model):
    assert torch.equal(run(scale_rope(model)), run(model))


def test_the_scale_of_time_is_passed_on_and_changes_no_picture(model):
    scaled = scale_rope(model, scale_t=2.0)
    assert scaled.model_options["transformer_options"]["rope_options"]["scale_t"] == 2.0
    assert torch.equal(run(scaled), run(model))
