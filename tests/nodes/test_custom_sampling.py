from types import SimpleNamespace

import pytest
import torch

from limner.nodes import custom_sampling, samplers, sigmas
from limner.sampling import LatentFormat, make_sampling
from limner.sampling.functions import KSAMPLER
from limner.sampling.sampler import consume
from tests.nodes.make import run_in
from tests.sampling.make import conditioning, toy


@pytest.fixture
def model():
    return toy()


@pytest.fixture
def run(tmp_path):
    return run_in(tmp_path)


LEVELS = torch.tensor([14.0, 5.0, 1.0, 0.3, 0.0])
BLANK = {"samples": torch.zeros(1, 4, 8, 8)}


def custom(run, model, latent=BLANK, **changed):
    given = {
        "model": model,
        "add_noise": True,
        "noise_seed": 3,
        "cfg": 2.0,
        "positive": conditioning(1.0),
        "negative": conditioning(0.0),
        "sampler": samplers.select("euler"),
        "sigmas": LEVELS,
        "latent_image": latent,
    }
    return custom_sampling.sample(run, **{**given, **changed})


def advanced(run, model, guider, latent=BLANK, noise=3):
    return custom_sampling.sample_advanced(
        run, custom_sampling.random_noise(noise), guider, samplers.select("euler"), LEVELS, latent
    )


def test_both_ways_of_custom_sampling_make_the_same_latent(run, model):
    guider = custom_sampling.cfg_guider(model, conditioning(1.0), conditioning(0.0), 2.0)
    made = advanced(run, model, guider)
    assert torch.equal(made.output["samples"], custom(run, model).output["samples"])
    assert [value for value, _, _ in run.sink.seen] == [1, 2, 3, 4] * 2


def test_the_last_prediction_is_the_second_output(run, model):
    cut = custom(run, model, sigmas=LEVELS[:3])
    assert not torch.allclose(cut.output["samples"], cut.denoised_output["samples"])
    whole = custom(run, model)
    assert torch.allclose(whole.output["samples"], whole.denoised_output["samples"])


def test_without_sigmas_both_outputs_are_the_latent(run, model):
    latent = {"samples": torch.ones(1, 4, 8, 8), "type": "kept"}
    made = custom(run, model, latent, sigmas=LEVELS[:0])
    assert made.output is made.denoised_output
    assert torch.equal(made.output["samples"], latent["samples"])
    assert made.output["type"] == "kept"


def test_a_mask_keeps_what_is_outside_it(run, model):
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    latent = {"samples": torch.full((1, 4, 8, 8), 0.5), "noise_mask": mask}
    made = custom(run, model, latent).output
    assert torch.allclose(made["samples"][..., 4:], torch.tensor(0.5), atol=1e-5)
    assert not torch.allclose(made["samples"][..., :4], torch.tensor(0.5), atol=1e-2)


def test_without_noise_the_latent_is_sampled_as_it_is(run, model):
    made = custom(run, model, add_noise=False, sigmas=LEVELS[-2:], latent_image={"samples": torch.ones(1, 4, 8, 8)})
    assert torch.equal(made.output["samples"], made.denoised_output["samples"])
    assert torch.equal(custom_sampling.disable_noise().generate_noise(BLANK), BLANK["samples"])


def test_a_basic_guider_predicts_one_conditioning_only(run, model):
    advanced(run, model, custom_sampling.basic_guider(model, conditioning(1.0)))
    assert [contexts for _, _, contexts in model.calls] == [[1.0]] * 4


def test_a_dual_guider_of_equal_conditionings_is_plain_guidance(run, model):
    guider = custom_sampling.dual_cfg_guider(
        model=model, cond1=conditioning(1.0), cond2=conditioning(1.0), negative=conditioning(0.0),
        cfg_conds=7.0, cfg_cond2_negative=2.0, style="regular",
    )  # fmt: skip
    assert torch.allclose(advanced(run, model, guider).output["samples"], custom(run, model).output["samples"])


def test_perpendicular_negatives_do_nothing_when_the_negative_is_the_empty_prompt(run, model):
    guider = custom_sampling.perp_neg_guider(
        model, conditioning(1.0), conditioning(0.0), conditioning(0.0), cfg=2.0, neg_scale=5.0
    )
    made = advanced(run, model, guider).output["samples"]
    assert torch.allclose(made, custom(run, model).output["samples"], atol=1e-5)


def test_noise_of_a_batch_follows_its_indices():
    noise = custom_sampling.random_noise(5)
    batch = noise.generate_noise({"samples": torch.zeros(3, 4, 2, 2), "batch_index": [1, 0, 1]})
    assert torch.equal(batch[0], batch[2])
    assert torch.equal(noise.generate_noise({"samples": torch.zeros(1, 4, 2, 2)})[0], batch[1])


@pytest.mark.parametrize(("levels", "strength"), [([4.0, 1.0], 3.0), ([4.0], 4.0), ([1.0, 4.0], 3.0)])
def test_noise_is_added_as_strong_as_the_sigmas_are_apart(model, levels, strength):
    latent = {"samples": torch.ones(1, 4, 8, 8)}
    noise = custom_sampling.random_noise(1)
    made = custom_sampling.add_noise(model, noise, torch.tensor(levels), latent)["samples"]
    assert torch.allclose(made, 1 + strength * noise.generate_noise(latent), atol=1e-6)


def test_noise_is_added_in_the_models_space(model):
    model.latent_format = LatentFormat(scale_factor=0.25)
    latent = {"samples": torch.full((1, 4, 2, 2), 8.0)}
    noise = custom_sampling.random_noise(1)
    made = custom_sampling.add_noise(model, noise, torch.tensor([1.0, 0.0]), latent)["samples"]
    assert torch.allclose(made, (2.0 + noise.generate_noise(latent)) / 0.25)


def test_without_sigmas_no_noise_is_added(model):
    latent = {"samples": torch.ones(1, 4, 2, 2)}
    assert custom_sampling.add_noise(model, None, torch.zeros(0), latent) == latent


class Exact:
    """The denoiser of one clean latent of value 2, for guided and unguided alike."""

    sampling = make_sampling("eps")

    def __call__(self, x, sigma):
        return torch.full_like(x, 2.0)

    def with_uncond(self, x, sigma):
        return self(x, sigma), torch.full_like(x, 1.0)


def steps(sampler):
    x = torch.zeros(1, 1, 4, 4)
    noise = [] if sampler.noise == "none" else [lambda _sigma, _after, like=x: like * 0]
    return consume(sampler.steps(Exact(), x, [8.0, 4.0, 2.0, 0.0], *noise, **sampler.options))


def test_the_alternative_of_cfg_pp_ends_past_the_guided_prediction():
    assert torch.allclose(steps(samplers.euler_cfg_pp("alternative")), torch.tensor(3.0))
    assert torch.allclose(steps(samplers.euler_cfg_pp("regular")), torch.tensor(2.0))


def test_consistency_sampling_with_upscaling_grows_the_latent():
    assert steps(samplers.lcm_with_upscaling(2.0, -1, upscale_method="bilinear")).shape == (1, 1, 8, 8)
    assert steps(samplers.lcm_with_upscaling(1.5, 1, upscale_method="bilinear")).shape == (1, 1, 6, 6)
    assert steps(samplers.lcm_with_upscaling(3.0, 0, upscale_method="bilinear")).shape == (1, 1, 4, 4)


@pytest.mark.parametrize(("device", "on_device"), [("gpu", True), ("cpu", False)])
def test_the_device_of_brownian_noise_is_chosen(device, on_device):
    assert samplers.dpmpp_sde(noise_device=device).on_device is on_device
    assert samplers.dpmpp_2m_sde("heun", noise_device=device).options["solver_type"] == "heun"
    assert samplers.dpmpp_3m_sde(eta=0.5, noise_device=device).options["eta"] == 0.5


def test_an_ordinary_differential_equation_adds_no_noise():
    assert samplers.er_sde("ODE", s_noise=2.0).options["s_noise"] == 0
    assert samplers.er_sde("Reverse-time SDE", eta=0.0).options["s_noise"] == 0
    assert samplers.er_sde("ER-SDE", max_stage=1, s_noise=2.0).options["s_noise"] == 2.0


def test_a_stochastic_adams_method_is_stochastic_in_its_interval_only():
    model = SimpleNamespace(sampling=make_sampling("eps"))
    tau = samplers.sa_solver(model, 0.7, 0.2, 0.8, use_pece=False, simple_order_2=False).options["tau_func"]
    inside, before = (sigmas.percent_to_sigma(model, part) for part in (0.5, 0.1))
    assert (tau(inside), tau(before)) == (0.7, 0.0)


def test_noise_has_the_latents_precision_whatever_the_model_computes_in(model):  # rule S3
    """Rule S3: drawn on the CPU in the latent's dtype, so that a seed means the same on every device."""
    noise = custom_sampling.random_noise(7).generate_noise({"samples": torch.zeros(1, 4, 2, 2)})
    generator = torch.Generator().manual_seed(7)
    assert torch.equal(noise, torch.randn(1, 4, 2, 2, generator=generator))
    half = custom_sampling.random_noise(7).generate_noise({"samples": torch.zeros(1, 4, 2, 2, dtype=torch.float16)})
    assert half.dtype == torch.float16


def test_outside_a_mask_ddim_draws_noise_of_the_next_seed(model):  # rule S4
    """Rule S4."""
    sampler = samplers.select("ddim")
    guider = SimpleNamespace(model=model)
    fill = sampler._fill(torch.zeros(1, 4, 2, 2), 7, guider)
    assert torch.equal(fill, torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(8)))


def test_a_function_that_a_pack_brought_takes_the_options_of_the_node():
    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None, eta=1.0, s_noise=1.0):
        return x

    sampler = KSAMPLER(sample, {"s_noise": 0.5}).with_options(eta=0.25)
    assert sampler.extra_options == {"s_noise": 0.5, "eta": 0.25}
