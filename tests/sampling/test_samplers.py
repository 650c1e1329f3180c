"""The registry of samplers, and how fast the deterministic ones converge."""

from importlib import import_module
from pkgutil import iter_modules

import pytest
import torch
from torch import Tensor

from limner.errors import BadInput, NotFound
from limner.sampling import SAMPLERS, get_sampler, make_sampling, samplers
from limner.sampling.sampler import consume
from tests.sampling.make import conditioning, toy


def test_the_public_names_are_those_of_the_folder():
    files = [module.name for module in iter_modules(samplers.__path__) if not module.name.startswith("_")]
    found = [sampler.name for file in files for sampler in import_module(f"limner.sampling.samplers.{file}").VARIANTS]
    assert len(found) == len(set(found))
    assert set(found) == set(SAMPLERS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_public_name_is_found(name):
    assert get_sampler(name).name == name


def test_an_unknown_sampler_is_refused():
    with pytest.raises(NotFound):
        get_sampler("euler_ancestrall")


def test_an_unknown_option_is_refused():
    with pytest.raises(BadInput, match="no option 'sigma'"):
        get_sampler("heun").with_options(sigma=1.0)


class Gaussian:
    """The exact denoiser of normal data with std 1: x(σ) = x(σ0) · √((1+σ²)/(1+σ0²))."""

    sampling = make_sampling("eps")

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return x / (1 + sigma**2)

    def with_uncond(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        denoised = self(x, sigma)
        return denoised, denoised


ORDERS = {
    "euler": 1, "euler_cfg_pp": 1, "heun": 2, "heunpp2": 1, "dpm_2": 2, "lms": 3, "dpm_fast": 2, "dpmpp_2m": 2,
    "dpmpp_2m_cfg_pp": 2, "ipndm": 1, "deis": 2, "res_multistep": 2, "res_multistep_cfg_pp": 2, "ddim": 1,
    "gradient_estimation": 1, "gradient_estimation_cfg_pp": 1, "uni_pc": 2, "uni_pc_bh2": 2,
}  # fmt: skip


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_a_deterministic_sampler_converges_with_its_order(name, order):
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64) * 8
    errors = []
    for steps in (24, 48):
        sigmas = torch.logspace(0.9, -0.5, steps + 1, dtype=torch.float64).tolist()
        sampler = get_sampler(name)
        noise = [] if sampler.noise == "none" else [lambda _sigma, _after: torch.zeros_like(x)]
        found = consume(sampler.steps(Gaussian(), x, sigmas, *noise, **sampler.options))
        exact = x * ((1 + sigmas[-1] ** 2) / (1 + sigmas[0] ** 2)) ** 0.5
        errors.append(abs(float(found - exact)))
    rate = torch.tensor(errors[0] / errors[1]).log2()
    assert errors[1] < 0.2
    assert rate > order - 0.35, f"{errors} is order {rate:.2f}"


def test_a_callback_sees_every_step_and_can_stop_the_run():
    model, seen = toy(), []

    class StopError(Exception):
        pass

    def callback(i: int, _denoised: Tensor, _x: Tensor, total: int) -> None:
        seen.append((i, total))
        if i == 2:
            raise StopError

    from limner.sampling import ksample

    with pytest.raises(StopError):
        ksample(
            model, 1, 5, 2.0, "euler", "normal", conditioning(1.0), conditioning(0.0),
            {"samples": torch.zeros(1, 4, 8, 8)}, callback=callback,
        )  # fmt: skip
    assert seen == [(0, 5), (1, 5), (2, 5)]


def test_equal_seeds_give_equal_latents_and_others_do_not():
    from limner.sampling import ksample

    def run(seed: int) -> Tensor:
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        return ksample(toy(), seed, 4, 2.0, "dpmpp_2m_sde", "karras", conditioning(1.0), conditioning(0.0), latent)[
            "samples"
        ]

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))
