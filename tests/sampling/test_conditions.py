"""Conditions: what is batched, what is left out, what is kept."""

import math

import pytest
import torch

from limner.errors import BadInput
from limner.sampling import CFGGuider, CrossAttnCond, get_sampler, ksample
from limner.sampling.conditions import calc_cond_batch
from limner.sampling.prepare import convert_conditioning, mask_bounds, prepare_mask, process_conditions
from tests.sampling.make import conditioning, toy


def predict(model, positive, negative, sigma=2.0, batch=1):
    x = torch.zeros(batch, 4, 8, 8)
    named = {"positive": convert_conditioning(positive), "negative": convert_conditioning(negative)}
    ready = process_conditions(model, x, named)
    return calc_cond_batch(model, [ready["positive"], ready["negative"]], x, torch.full((batch,), sigma), {})


def test_prompts_of_different_length_are_repeated_to_their_least_common_multiple():
    short, long = CrossAttnCond(torch.zeros(1, 2, 3)), CrossAttnCond(torch.ones(1, 3, 3))
    assert short.can_concat(long)
    assert short.concat([long]).shape == (2, 6, 3)


def test_prompts_that_would_need_more_than_four_repeats_are_not_batched():
    assert not CrossAttnCond(torch.zeros(1, 1, 3)).can_concat(CrossAttnCond(torch.zeros(1, 5, 3)))


def test_little_memory_splits_the_batch():
    model = toy(memory=1.5 * 256 + 1)
    predict(model, conditioning(1.0), conditioning(0.0))
    assert [shape[0] for shape, _, _ in model.calls] == [1, 1]


def test_a_condition_outside_its_range_is_not_run():
    model = toy()
    predict(model, conditioning(1.0) + conditioning(0.5, end_percent=0.1), conditioning(0.0))
    assert model.calls[0][2] == [0.0, 1.0]


def test_both_ends_of_a_range_belong_to_it():
    model = toy()
    sigma = model.sampling.percent_to_sigma(0.3)
    sigma32 = float(torch.tensor(sigma))
    model.sampling.percent_to_sigma(0.3)
    predict(model, conditioning(1.0, start_percent=0.3, end_percent=0.3), conditioning(0.0), sigma=sigma32)
    assert model.calls[0][2] == [0.0, 1.0]


def test_default_conditions_fill_what_the_others_leave():
    model = toy()
    half = torch.zeros(1, 8, 8)
    half[..., :4] = 1
    masked = conditioning(1.0, mask=half, mask_strength=1.0) + conditioning(0.5, default=True)
    mixed = predict(model, masked, conditioning(0.0))[0]
    whole = predict(model, conditioning(1.0), conditioning(0.0))[0]
    other = predict(model, conditioning(0.5), conditioning(0.0))[0]
    torch.testing.assert_close(mixed, torch.cat([whole[..., :4], other[..., 4:]], -1))


def test_cells_without_any_condition_are_zero():
    model = toy()
    out = predict(model, conditioning(1.0, area=(4, 4, 0, 0)), conditioning(0.0))[0]
    assert not out[..., 4:, :].any()
    assert out[..., :4, :4].all()


def test_an_empty_mask_has_the_smallest_area():
    assert mask_bounds(torch.zeros(1, 16, 16)) == (8, 8, 0, 0)


class Spy:
    """A control network that notes what it is called with."""

    def __init__(self):
        self.calls = []

    def pre_run(self, model, percent_to_sigma):
        self.calls.append("pre_run")

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        self.calls.append(batched_number)


def test_control_reaches_the_negative_when_it_applies_to_it():
    spy, model = Spy(), toy()
    predict(model, conditioning(1.0, control=spy, control_apply_to_uncond=True), conditioning(0.0))
    assert spy.calls == ["pre_run", 2]


def test_control_of_the_positive_alone_splits_the_batch():
    spy, model = Spy(), toy()
    predict(model, conditioning(1.0, control=spy), conditioning(0.0))
    assert spy.calls == ["pre_run", 1]
    assert len(model.calls) == 2


def test_a_mask_at_picture_size_is_brought_to_the_latent():
    mask = torch.zeros(64, 64)
    mask[:, 32:] = 1
    prepared = prepare_mask(mask, (2, 4, 8, 8))
    assert prepared.shape == (2, 4, 8, 8)
    assert prepared[0, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_what_the_noise_mask_keeps_is_kept():
    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1
    latent = {"samples": torch.full((1, 4, 8, 8), 0.25), "noise_mask": mask, "name": "kept"}
    out = ksample(toy(), 1, 4, 2.0, "euler", "normal", conditioning(1.0), conditioning(0.0), latent)
    torch.testing.assert_close(out["samples"][..., 4:], latent["samples"][..., 4:])
    assert out["name"] == "kept"


def test_two_stages_are_one_run():
    def run(**options):
        return ksample(toy(), 5, 6, 2.0, "euler", "karras", conditioning(1.0), conditioning(0.0), **options)

    blank = {"samples": torch.zeros(1, 4, 8, 8)}
    whole = run(latent=blank)["samples"]
    first = run(latent=blank, end_step=3)
    second = run(latent=first, start_step=3, disable_noise=True)["samples"]
    torch.testing.assert_close(second, whole, atol=1e-5, rtol=1e-5)


def test_a_start_beyond_the_last_step_changes_nothing():
    latent = {"samples": torch.randn(1, 4, 8, 8)}
    out = ksample(toy(), 1, 4, 2.0, "euler", "normal", conditioning(1.0), conditioning(0.0), latent, start_step=4)
    assert torch.equal(out["samples"], latent["samples"])


def test_denoise_zero_changes_nothing():
    latent = {"samples": torch.randn(1, 4, 8, 8)}
    out = ksample(toy(), 1, 4, 2.0, "euler", "normal", conditioning(1.0), conditioning(0.0), latent, denoise=0.0)
    assert torch.equal(out["samples"], latent["samples"])


def test_a_blank_latent_gets_the_channels_of_the_model():
    blank = {"samples": torch.zeros(1, 16, 8, 8)}
    out = ksample(toy(), 1, 2, 2.0, "euler", "normal", conditioning(1.0), conditioning(0.0), blank)
    assert out["samples"].shape == (1, 4, 8, 8)


def test_a_latent_of_another_family_is_refused():
    with pytest.raises(BadInput, match="16 channels"):
        ksample(
            toy(), 1, 2, 2.0, "euler", "normal", conditioning(1.0), conditioning(0.0),
            {"samples": torch.ones(1, 16, 8, 8)},
        )  # fmt: skip


def test_post_cfg_functions_see_the_scale_and_change_the_result():
    model, seen = toy(), []

    def double(args):
        seen.append(args["cond_scale"])
        return args["denoised"] * 2

    plain = sample_once(model)
    model.options["sampler_post_cfg_function"] = [double]
    torch.testing.assert_close(sample_once(model), plain * 2)
    assert seen == [3.0]


def sample_once(model):
    guider = CFGGuider(model)
    guider.set_conds(conditioning(1.0), conditioning(0.0))
    guider.set_cfg(3.0)
    x = torch.zeros(1, 4, 8, 8)
    return guider.sample(x, x, get_sampler("euler"), torch.tensor([1.0, 0.0]), seed=0)


def test_cfg_pp_runs_the_negative_at_cfg_one():
    model = toy()
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    ksample(model, 1, 2, 1.0, "euler_cfg_pp", "normal", conditioning(1.0), conditioning(0.0), latent)
    assert all(contexts == [0.0, 1.0] for _, _, contexts in model.calls)
    assert math.isfinite(model.calls[0][1][0])
