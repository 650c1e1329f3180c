"""Guessed steps: the arithmetic alone, and runs of a small model."""

import pytest
import torch

from limner.models.load import load_diffusion_model
from limner.nodes import step_cache
from limner.sampling import CFGGuider, get_sampler
from limner.sampling.step_cache import StepCache
from tests.models.checkpoints import checkpoint, memory


def run(cache, levels, threshold_parts=("a",)):
    """Outputs of 2·x at x = sigma, and how many of them were made."""
    made = []

    def predict(sigma):
        x = torch.full((len(threshold_parts), 1, 1, 1), sigma)

        def make():
            made.append(sigma)
            return 2 * x

        return float(cache.predict(make, x, sigma, list(threshold_parts))[0])

    return [predict(sigma) for sigma in levels], made


def test_guessed_outputs_are_the_input_plus_what_the_last_prediction_added():
    outputs, made = run(StepCache(1.0, 100.0, 0.0), [10.0, 9.0, 8.0, 7.0])
    # rate 2 is known from the second step on; a step of 1 is foretold to change 2 of 18
    assert made == [10.0, 9.0]
    assert outputs == [20.0, 18.0, 8.0 + 9.0, 7.0 + 9.0]


def test_when_the_foretold_changes_add_up_a_prediction_is_made():
    _, made = run(StepCache(0.2, 100.0, 0.0), [10.0, 9.0, 8.0, 7.0, 6.0])
    assert made == [10.0, 9.0, 7.0]  # 2/18 < 0.2 <= 4/18, then 2/14 < 0.2


def test_outside_its_range_every_step_is_made():
    _, made = run(StepCache(9.0, 8.5, 7.5), [10.0, 9.0, 8.0, 7.0])
    assert made == [10.0, 9.0, 7.0]


def test_a_threshold_of_nothing_makes_every_step():
    _, made = run(StepCache(0.0, 100.0, 0.0), [10.0, 9.0, 8.0, 7.0])
    assert len(made) == 4


def test_a_condition_that_is_new_is_predicted_though_others_are_guessed():
    cache = StepCache(9.0, 100.0, 0.0)
    run(cache, [10.0, 9.0])
    x = torch.full((1, 1, 1, 1), 8.0)
    assert float(cache.predict(lambda: 2 * x, x, 8.0, ["a"])) == 17.0
    assert float(cache.predict(lambda: 2 * x, x, 8.0, ["b"])) == 16.0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_diffusion_model(checkpoint(tmp_path_factory.mktemp("tiny")), memory())


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def painted(model):
    guider = CFGGuider(model)
    guider.set_conds([[noise(3, 1, 4, 6), {}]], [[noise(4, 1, 4, 6), {}]])
    guider.set_cfg(2.0)
    levels = torch.linspace(8.0, 0.0, 9)
    return guider.sample(noise(5, 1, 4, 8, 8), torch.zeros(1, 4, 8, 8), get_sampler("euler"), levels, seed=1)


@pytest.mark.parametrize("node", [step_cache.easy_cache, step_cache.lazy_cache])
def test_a_run_with_guesses_is_near_and_repeatable_and_says_what_it_saved(model, node, caplog):
    caplog.set_level("INFO")
    plain = painted(model)
    assert torch.allclose(painted(node(model, 0.0)), plain, atol=1e-5)
    cached = node(model, 0.5, 0.0, 1.0, verbose=True)
    first = painted(cached)
    assert torch.equal(painted(cached), first)
    assert not torch.equal(first, plain)
    assert "of 8 steps were guessed" in caplog.text
    assert "0 of 8" not in caplog.text
    assert (first - plain).abs().mean() < plain.abs().mean()
