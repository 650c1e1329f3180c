import math
from types import SimpleNamespace

import pytest
import torch

from limner.errors import BadInput
from limner.nodes import model_sampling, sigmas
from limner.sampling import make_sampling
from limner.sampling.schedules import OPTIMAL_STEPS

SD1 = SimpleNamespace(sampling=make_sampling("eps"))


def falling(levels):
    return levels == sorted(levels, reverse=True)


def test_a_schedule_with_denoise_is_the_end_of_a_longer_one():
    longer = sigmas.basic(SD1, "karras", 20, 1.0)
    assert torch.equal(sigmas.basic(SD1, "karras", 10, 0.5), longer[-11:])
    assert sigmas.basic(SD1, "karras", 10, 0.0).numel() == 0


def test_a_polyexponential_schedule_of_power_one_is_exponential():
    assert torch.allclose(sigmas.polyexponential(6, 10.0, 0.1, 1.0), sigmas.exponential(6, 10.0, 0.1))


def test_a_schedule_in_logarithms_refuses_zero():
    with pytest.raises(BadInput, match="above 0"):
        sigmas.polyexponential(6, 10.0, 0.0, 1.0)


def test_a_laplace_schedule_is_symmetric_about_its_middle_and_does_not_end_in_zero():
    found = sigmas.laplace(5, 100.0, 0.001, 0.0, 0.5)
    assert found[2] == pytest.approx(1.0, abs=1e-4)
    assert float(found[1] * found[3]) == pytest.approx(1.0, abs=1e-4)
    assert float(found[1]) == pytest.approx((0.5 + 1e-5) ** -0.5, rel=1e-4)
    assert found[-1] > 0


def test_the_variance_preserving_schedule_follows_its_integral():
    found = sigmas.variance_preserving(3, 19.9, 0.1, 0.001)
    assert float(found[0]) == pytest.approx(math.sqrt(math.exp(19.9 / 2 + 0.1) - 1), rel=1e-5)
    assert found[-1] == 0


def test_turbo_takes_every_hundredth_time():
    table = make_sampling("eps").sigmas
    assert torch.allclose(sigmas.turbo(SD1, 2, 1.0), torch.tensor([table[999], table[899], 0.0]))
    assert torch.allclose(sigmas.turbo(SD1, 10, 0.2), torch.tensor([table[199], table[99], 0.0]))


def test_a_searched_schedule_is_taken_as_it_is_when_the_steps_fit_and_interpolated_else():
    whole = sigmas.optimal_steps("FLUX", 10, 1.0)
    assert whole[:-1].tolist() == pytest.approx(OPTIMAL_STEPS["FLUX"][:-1])
    halved = sigmas.optimal_steps("FLUX", 5, 1.0)
    assert halved[:-1].tolist() == pytest.approx(OPTIMAL_STEPS["FLUX"][0:10:2])
    doubled = sigmas.optimal_steps("FLUX", 20, 1.0)
    assert float(doubled[1]) == pytest.approx(math.sqrt(0.9968 * 0.9886))


def test_a_searched_schedule_with_denoise_keeps_so_many_of_its_own_steps():
    whole = sigmas.align_your_steps("SD1", 10, 1.0)
    assert torch.equal(sigmas.align_your_steps("SD1", 10, 0.3), whole[-4:])
    assert sigmas.align_your_steps("SD1", 10, 0.0).numel() == 0


def test_a_stretched_flow_schedule_ends_at_its_terminal():
    found = sigmas.ltxv(8, 2.05, 0.95, stretch=True, terminal=0.25)
    assert float(found[-2]) == pytest.approx(0.25, abs=1e-6)
    assert float(found[0]) == pytest.approx(1.0, abs=1e-6)
    assert found[-1] == 0
    assert falling(found.tolist())


def test_more_tokens_shift_a_flow_schedule_towards_noise():
    few, many = ({"samples": torch.zeros(1, 128, 1, side, side)} for side in (8, 64))
    assert sigmas.ltxv(8, stretch=False, latent=few)[4] < sigmas.ltxv(8, stretch=False, latent=many)[4]


GIVEN = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0])


def test_splitting_shares_the_level_of_the_step():
    high, low = sigmas.split(GIVEN, 1)
    assert (high.tolist(), low.tolist()) == ([8, 4], [4, 2, 1, 0])


@pytest.mark.parametrize(
    ("denoise", "high", "low"),
    [(0.5, [8, 4, 2], [2, 1, 0]), (1.0, [8], [8, 4, 2, 1, 0]), (0.0, [], [0]), (0.1, [], [0])],
)
def test_splitting_by_denoise_counts_steps_from_the_end(denoise, high, low):
    found = sigmas.split_denoise(GIVEN, denoise)
    assert (found.high_sigmas.tolist(), found.low_sigmas.tolist()) == (high, low)


def test_flipping_begins_with_nearly_nothing_and_leaves_its_input_alone():
    assert sigmas.flip(GIVEN).tolist() == pytest.approx([0.0001, 1, 2, 4, 8])
    assert GIVEN.tolist() == [8, 4, 2, 1, 0]
    assert sigmas.flip(GIVEN[:0]).numel() == 0


def test_the_first_sigma_is_set_in_a_copy():
    assert sigmas.set_first(GIVEN, 9.0).tolist() == [9, 4, 2, 1, 0]
    assert GIVEN[0] == 8


@pytest.mark.parametrize(
    ("spacing", "part"), [("linear", 0.5), ("cosine", math.sin(math.pi / 4)), ("sine", 1 - math.cos(math.pi / 4))]
)
def test_levels_are_put_between_others(spacing, part):
    found = sigmas.extend_intermediate(GIVEN, 2, 5.0, 2.0, spacing=spacing)
    assert found.tolist() == pytest.approx([8, 4, 4 - 2 * part, 2, 2 - part, 1, 0])


def test_without_a_start_levels_are_put_from_the_first_on():
    assert len(sigmas.extend_intermediate(GIVEN, 3, -1.0, 4.0, spacing="linear")) == len(GIVEN) + 4


def test_percentages_have_bounds_beyond_the_model_or_its_own():
    assert sigmas.percent_to_sigma(SD1, 0.0) > 1e8
    assert sigmas.percent_to_sigma(SD1, 0.0, return_actual_sigma=True) == SD1.sampling.sigma_max
    assert sigmas.percent_to_sigma(SD1, 1.0, return_actual_sigma=True) == SD1.sampling.sigma_min
    assert sigmas.percent_to_sigma(SD1, 0.5, return_actual_sigma=True) == SD1.sampling.percent_to_sigma(0.5)


class Patched:
    """A model that remembers what was put in its place."""

    def __init__(self):
        self.put = {}
        self.dtype = None

    def clone(self):
        return Patched()

    def add_object_patch(self, name, obj):
        self.put[name] = obj

    def set_model_compute_dtype(self, dtype):
        self.dtype = dtype


def test_pure_noise_is_reached_with_zero_terminal_snr():
    changed = model_sampling.discrete(Patched(), "v_prediction", True)
    assert changed.put["model_sampling"].sigma_max > 4000


def test_playground_has_latents_of_its_own():
    changed = model_sampling.continuous_edm(Patched(), "edm_playground_v2.5")
    latent = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    format_ = changed.put["latent_format"]
    assert torch.allclose(format_.process_out(format_.process_in(latent)), latent, atol=1e-5)
    assert "latent_format" not in model_sampling.continuous_edm(Patched(), "edm").put


def test_a_flux_shift_is_linear_in_tokens():
    changed = model_sampling.flux(Patched(), 1.15, 0.5, 256, 256)
    assert changed.put["model_sampling"].time.shift == pytest.approx(0.5)


def test_computing_in_a_precision_is_an_option_and_default_leaves_it():
    assert model_sampling.compute_dtype(Patched(), "bf16").dtype == torch.bfloat16
    assert model_sampling.compute_dtype(Patched(), "default").dtype is None
