"""Windows over long batches: where they are, how they are weighed, and that predictions are put together by weight."""

from itertools import pairwise

import pytest
import torch

from limner.models.load import load_diffusion_model
from limner.nodes.context_windows import context_windows
from limner.sampling import CFGGuider, get_sampler
from limner.sampling.condition_values import CrossAttnCond
from limner.sampling.context_windows import FUSIONS, SCHEDULES, Windows, cut_condition, in_windows, reversed_fraction
from tests.models.checkpoints import checkpoint, memory


def test_static_windows_overlap_and_the_last_ends_at_the_end():
    assert Windows(4, 1).at_step(0, 9) == [[0, 1, 2, 3], [3, 4, 5, 6], [5, 6, 7, 8]]


def test_batched_windows_follow_each_other():
    assert Windows(4, 1, "batched").at_step(0, 9) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_looped_windows_go_round_the_end_and_move_from_step_to_step():
    windows = Windows(4, 1, "looped_uniform", closed=True)
    assert windows.at_step(0, 8) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 0, 1]]
    assert windows.at_step(1, 8)[0] == [4, 5, 6, 7]


def test_uniform_windows_stay_inside():
    for step in range(4):
        for window in Windows(4, 1, "standard_uniform", stride=2).at_step(step, 13):
            assert all(after > before for before, after in pairwise(window))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("frames", [5, 16, 17, 33])
def test_every_frame_is_in_a_window_that_is_not_too_long(schedule, frames):
    windows = Windows(16, 4, schedule, stride=2)
    for step in range(5):
        found = windows.at_step(step, frames)
        assert {frame for window in found for frame in window} == set(range(frames))
        assert max(map(len, found)) <= 16


def test_what_is_short_is_one_window():
    assert Windows(16, 4).at_step(3, 5) == [[0, 1, 2, 3, 4]]


def test_bits_are_reversed_behind_the_point():
    assert [reversed_fraction(step) for step in range(5)] == [0, 0.5, 0.25, 0.75, 0.125]


def test_weights():
    window = [4, 5, 6, 7, 8]
    assert Windows(5, 2, fusion="flat").weights(window, 20) == [1] * 5
    assert Windows(5, 2, fusion="pyramid").weights(window, 20) == [1, 2, 3, 2, 1]
    relative = Windows(5, 2, fusion="relative").weights(window, 20)
    assert relative[2] == 1
    assert relative == sorted(relative[:3]) + sorted(relative[3:], reverse=True)
    linear = Windows(5, 2, fusion="overlap-linear")
    assert linear.weights(window, 20)[2] == 1
    assert linear.weights([0, 1, 2, 3, 4], 20)[:3] == [1, 1, 1]
    assert linear.weights([15, 16, 17, 18, 19], 20)[2:] == [1, 1, 1]


def executed(windows, x, conds):
    """The wrapper around a prediction that is one number for each frame of its window: how many it had."""
    seen = []

    def executor(_model, parts, part, sigma, _options):
        seen.append((part.shape, parts, sigma))
        return [part * 0 + len(part) for _ in parts]

    return in_windows(windows)(executor, None, conds, x, torch.ones(len(x)), {}), seen


def condition(**more):
    return {"model_conds": {}, **more}


def test_predictions_are_put_together_by_weight():
    x = torch.zeros(5, 1, 1, 1)
    made, seen = executed(Windows(3, 2, "batched", fusion="flat"), x, [[condition()], None])
    assert made[0].flatten().tolist() == [3, 3, 3, 2, 2]
    assert [len(sigma) for _, _, sigma in seen] == [3, 2]
    assert seen[0][1][1] is None


def test_what_fits_is_predicted_as_it_is():
    x = torch.zeros(3, 1, 1, 1)
    conds = [[condition()]]
    _, seen = executed(Windows(3, 2), x, conds)
    assert seen[0][1] is conds


def test_conditions_are_cut_where_they_have_a_value_for_each_frame():
    x = torch.zeros(4, 1, 2, 2)
    given = condition(
        model_conds={
            "c_crossattn": CrossAttnCond(torch.arange(4.0).view(4, 1, 1)),
            "one": CrossAttnCond(torch.zeros(1, 4, 1)),
            "number": 7,
        },
        mask=torch.arange(4.0).view(4, 1, 1),
    )
    cut = cut_condition(given, torch.tensor([2, 3]), x, 0)
    assert cut["model_conds"]["c_crossattn"].cond.flatten().tolist() == [2, 3]
    assert cut["model_conds"]["one"].cond.shape == (1, 4, 1)
    assert cut["model_conds"]["number"] == 7
    assert cut["mask"].flatten().tolist() == [2, 3]


def test_frames_of_a_video_are_cut_only_where_axes_agree():
    x = torch.zeros(1, 4, 6, 2, 2)
    given = condition(
        model_conds={"c_crossattn": CrossAttnCond(torch.zeros(1, 3, 6)), "c_concat": torch.zeros(1, 4, 6, 2, 2)}
    )
    cut = cut_condition(given, torch.tensor([0, 5]), x, 2)
    assert cut["model_conds"]["c_crossattn"].cond.shape == (1, 3, 6)
    assert cut["model_conds"]["c_concat"].shape == (1, 4, 2, 2, 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_diffusion_model(checkpoint(tmp_path_factory.mktemp("tiny")), memory())


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_batch_in_windows_is_the_batch_at_once(model, fusion):
    """Pictures of a batch do not know each other, so windows over the batch change nothing."""

    def painted(which):
        guider = CFGGuider(which)
        guider.set_conds([[noise(3, 1, 4, 6), {}]], [[noise(4, 1, 4, 6), {}]])
        guider.set_cfg(2.0)
        levels = torch.tensor([4.0, 1.0, 0.0])
        return guider.sample(noise(5, 5, 4, 8, 8), torch.zeros(5, 4, 8, 8), get_sampler("euler"), levels, seed=1)

    windows = context_windows(
        model=model, context_length=3, context_overlap=1, context_schedule="standard_static", fuse_method=fusion
    )
    assert torch.allclose(painted(windows), painted(model), atol=1e-4)
