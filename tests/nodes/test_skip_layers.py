"""Guidance by skipped layers, on a toy of two blocks and in runs of a small transformer."""

import pytest
import torch

from limner.models.load import model_of
from limner.nodes import skip_layers as nodes
from limner.sampling import CFGGuider, get_sampler
from limner.sampling.skip_layers import layer_numbers
from limner.weights import CheckpointHeader
from tests.models.checkpoints import memory
from tests.models.test_sd3 import tiny


@pytest.mark.parametrize(
    ("text", "numbers"), [("7, 8, 9", (7, 8, 9)), ("12;3", (12, 3)), ("", ()), ("none", ()), ("a1b22", (1, 22))]
)
def test_every_number_in_a_text_is_a_layer(text, numbers):
    assert layer_numbers(text) == numbers


@pytest.fixture(scope="module")
def model():
    return model_of(CheckpointHeader.of(tiny().state_dict(), {}), memory())


@torch.inference_mode()
def run(model, cfg=2.0, steps=(1.0, 0.6, 0.2, 0.0)):
    """A latent after a few steps."""
    torch.manual_seed(3)
    noise = torch.randn(1, 16, 6, 6)
    prompts = [[[torch.randn(1, 5, 20), {"pooled_output": torch.randn(1, 12)}]] for _ in range(2)]
    guider = CFGGuider(model)
    guider.set_conds(*prompts)
    guider.set_cfg(cfg)
    return guider.sample(noise, torch.zeros_like(noise), get_sampler("euler"), torch.tensor(steps), seed=1)


def test_skipped_layers_guide_a_run(model):
    plain = run(model)
    guided = run(nodes.sd3(model, "1", 3.0, 0.0, 1.0))
    assert not torch.allclose(guided, plain, atol=1e-3)
    assert torch.equal(guided, run(nodes.any_transformer(model, "1", "4", 3.0, 0.0, 1.0)))


@pytest.mark.parametrize(
    "changed",
    [
        lambda model: nodes.sd3(model, "", 3.0, 0.0, 1.0),
        lambda model: nodes.sd3(model, "1", 0.0, 0.0, 1.0),
        lambda model: nodes.sd3(model, "1", 3.0, 0.99, 1.0),
        lambda model: nodes.any_transformer(model, "", "1", 3.0, 0.0, 1.0),
        lambda model: nodes.negative(model, "", "", 0.0, 1.0),
    ],
    ids=["no layers", "no scale", "after the run", "layers it lacks", "simple without layers"],
)
def test_nothing_changes_where_nothing_is_skipped(model, changed):
    assert torch.allclose(run(changed(model)), run(model), atol=1e-4)


def test_guidance_is_added_to_the_guided_prediction(model):
    """One step from pure noise to nothing gives the prediction itself: c + s·(c - skipped) at CFG 1."""
    steps = (1.0, 0.0)
    cond = run(model, 1.0, steps)
    skipped = model.clone()
    skipped.set_model_patch_replace(lambda args, _: args, "dit", "double_block", 1)
    without = run(skipped, 1.0, steps)
    found = run(nodes.any_transformer(model, "1", "", 2.0, 0.0, 1.0), 1.0, steps)
    assert torch.allclose(found, cond + (cond - without) * 2.0, atol=1e-4)


def test_rescaling_brings_back_the_spread_of_the_prediction(model):
    steps = (1.0, 0.0)
    latent = model.latent_format
    cond = latent.process_in(run(model, 1.0, steps))
    found = latent.process_in(run(nodes.any_transformer(model, "1", "", 2.0, 0.0, 1.0, 1.0), 1.0, steps))
    assert torch.allclose(found.std(), cond.std(), rtol=1e-4)


def test_the_simple_form_predicts_the_negative_without_the_layers(model):
    steps = (1.0, 0.0)
    skipped = model.clone()
    skipped.set_model_patch_replace(lambda args, _: args, "dit", "double_block", 1)
    torch.manual_seed(3)
    positive, negative = run(model, 1.0, steps), run(skipped, 0.0, steps)
    found = run(nodes.negative(model, "1", "", 0.0, 1.0), 3.0, steps)
    assert torch.allclose(found, negative + (positive - negative) * 3.0, atol=1e-4)
