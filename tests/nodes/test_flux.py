"""Flux as nodes tell it things: two steps of a reduced model, against the same two steps made by hand."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from limner.errors import BadInput
from limner.models.load import model_of
from limner.nodes import family_conditioning, inpaint, model_sampling
from limner.nodes.conditioning import with_values
from limner.sampling.ksampler import steps_sigmas
from limner.sampling.latent_formats import FORMATS
from limner.sampling.run import ksample
from limner.sampling.samplers import get_sampler
from limner.weights import CheckpointHeader
from tests.models.checkpoints import memory
from tests.models.make import tiny_flux
from tests.models.test_flux import CONFIG
from tests.nodes.make import EighthVAE

FORMAT = FORMATS["Flux"]
HEIGHT, WIDTH = 4, 6


def loaded(**changes):
    return model_of(CheckpointHeader.of(tiny_flux(**changes).state_dict(), CONFIG), memory())


def prompt(seed: int = 1, **options):
    """A text of five tokens and its vector."""
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(1, 12, generator=generator)
    return [[torch.randn(1, 5, 20, generator=generator), {"pooled_output": vector, **options}]]


def sampled(model, conditioning, negative=None, cfg=1.0, **latent) -> Tensor:
    start = {"samples": torch.zeros(1, 16, HEIGHT, WIDTH), **latent}
    found = ksample(model, 7, 2, cfg, "euler", "simple", conditioning, negative or prompt(2), start)
    return found["samples"]


@torch.inference_mode()
def by_hand(model, conditioning, joined: Tensor | None = None, start: Tensor | None = None, **told) -> Tensor:
    """Two steps of Euler's method: x + v · (next level - level). joined: in model space."""
    (text, options), *_ = conditioning
    sigmas = steps_sigmas(model.sampling, get_sampler("euler"), "simple", 2, 1.0)
    noise = torch.randn(1, 16, HEIGHT, WIDTH, generator=torch.manual_seed(7))
    x = sigmas[0] * noise + (1 - sigmas[0]) * (torch.zeros_like(noise) if start is None else FORMAT.process_in(start))
    with model.loaded() as network:
        for sigma, after in pairwise(sigmas):
            shown = x if joined is None else torch.cat((x, joined), dim=1)
            x = x + network(shown, sigma[None], text, y=options["pooled_output"], **told) * (after - sigma)
    return FORMAT.process_out(x)


class SixteenVAE(EighthVAE):
    """The same with sixteen channels."""

    def encode(self, pixels):
        return super().encode(pixels)[:, :1].expand(-1, 16, -1, -1) + torch.arange(16.0).view(1, -1, 1, 1)


def pixels() -> Tensor:
    return torch.rand(1, HEIGHT * 8, WIDTH * 8, 3, generator=torch.Generator().manual_seed(3))


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-4)


def test_the_scale_that_is_told_is_three_and_a_half_unless_a_node_says_otherwise():
    model, text = loaded(), prompt()
    stronger = family_conditioning.flux_guidance(text, 10.0)
    for conditioning, scale in ((text, 3.5), (stronger, 10.0)):
        assert same(sampled(model, conditioning), by_hand(model, conditioning, guidance=torch.tensor([scale])))
    assert not same(sampled(model, text), sampled(model, stronger))


def test_a_node_leaves_the_scale_away():
    model = loaded()
    silent = family_conditioning.flux_disable_guidance(prompt(guidance=10.0))
    assert same(sampled(model, silent), by_hand(model, silent, guidance=None))


def test_each_of_two_prompts_may_have_a_scale_of_its_own():
    model = loaded()
    yes, no = (family_conditioning.flux_guidance(prompt(seed), scale) for seed, scale in ((1, 2.0), (2, 8.0)))
    guided = sampled(model, yes, no, cfg=3.0)
    assert not same(guided, sampled(model, yes))
    assert not same(guided, sampled(model, yes, family_conditioning.flux_guidance(no, 2.0), cfg=3.0))
    assert same(sampled(model, yes, yes, cfg=3.0), sampled(model, yes))


def test_schnell_is_told_no_scale_and_takes_plain_steps():
    model, text = loaded(guidance_embed=False), prompt()
    assert same(sampled(model, family_conditioning.flux_guidance(text, 10.0)), by_hand(model, text))
    assert steps_sigmas(model.sampling, get_sampler("euler"), "simple", 2, 1.0).tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("method", ["offset", "index", "uxo/uno"])
def test_pictures_to_go_by_are_seen_by_their_method(method):
    model, text = loaded(), prompt()
    pictures = [torch.randn(1, 16, 4, 4), torch.randn(1, 16, 2, 6)]
    for picture in pictures:
        text = family_conditioning.reference_latent(text, {"samples": picture})
    text = family_conditioning.reference_method(text, method)
    told = {
        "guidance": torch.tensor([3.5]),
        "ref_latents": [FORMAT.process_in(picture) for picture in pictures],
        "ref_latents_method": method.removesuffix("/uno"),
    }
    assert same(sampled(model, text), by_hand(model, text, **told))
    assert not same(sampled(model, text), sampled(model, prompt()))


def test_without_a_method_pictures_lie_beside_each_other():
    model = loaded()
    text = family_conditioning.reference_latent(prompt(), {"samples": torch.randn(1, 16, 4, 4)})
    assert same(sampled(model, text), sampled(model, family_conditioning.reference_method(text, "offset")))


def test_fill_is_shown_the_picture_without_its_hole_and_the_hole_pixel_by_pixel():
    model, vae = loaded(in_channels=96), SixteenVAE()
    assert model.family.title == "Flux Fill"
    mask = torch.zeros(1, HEIGHT * 8, WIDTH * 8)
    mask[:, 5:21, 9:30] = 1
    yes, _, latent = inpaint.inpaint_model_conditioning(prompt(), prompt(2), vae, pixels(), mask, noise_mask=False)
    hole = torch.nn.functional.pixel_unshuffle(mask[:, None], 8)
    holed = pixels() * (1 - mask[..., None]) + 0.5 * mask[..., None]
    joined = torch.cat((FORMAT.process_in(vae.encode(holed)), hole), dim=1)
    expected = by_hand(model, yes, joined, latent["samples"], guidance=torch.tensor([3.5]))
    assert same(sampled(model, yes, samples=latent["samples"]), expected)
    kept = inpaint.inpaint_model_conditioning(prompt(), prompt(2), vae, pixels(), mask, noise_mask=True).latent
    outside = (mask[:, None, ::8, ::8] == 0).expand(-1, 16, -1, -1) & (hole.amax(1, keepdim=True) == 0)
    assert torch.allclose(sampled(model, yes, **kept)[outside], kept["samples"][outside], atol=1e-3)


def test_fill_without_a_mask_paints_everything():
    model, blank = loaded(in_channels=96), torch.zeros(1, 16, HEIGHT, WIDTH)
    joined = torch.cat((FORMAT.process_in(blank), torch.ones(1, 64, HEIGHT, WIDTH)), dim=1)
    assert same(sampled(model, prompt()), by_hand(model, prompt(), joined, guidance=torch.tensor([3.5])))


def test_control_variants_are_shown_a_picture_beside_the_latent():
    """Canny and Depth: the picture is prepared by the node that editing models share."""
    model, vae = loaded(in_channels=32), SixteenVAE()
    yes, _, latent = inpaint.instruct_pix_to_pix(prompt(guidance=30.0), prompt(2), vae, pixels())
    assert latent["samples"].shape == (1, 16, HEIGHT, WIDTH)
    joined = FORMAT.process_in(vae.encode(pixels()))
    assert same(sampled(model, yes), by_hand(model, yes, joined, guidance=torch.tensor([30.0])))
    larger = with_values(prompt(), {"concat_latent_image": torch.randn(1, 16, 2 * HEIGHT, 2 * WIDTH)})
    assert sampled(model, larger).shape == (1, 16, HEIGHT, WIDTH)


@pytest.mark.parametrize(("side", "shift"), [(256, 0.5), (1024, 1.15), (512, 0.5 + 0.65 * 768 / 3840)])
def test_the_levels_are_shifted_by_the_pictures_size(side, shift):
    model = model_sampling.flux(loaded(), width=side, height=side)
    e = torch.tensor(shift).exp()
    sigmas = steps_sigmas(model.sampling, get_sampler("euler"), "simple", 2, 1.0)
    assert torch.allclose(sigmas, torch.tensor([1.0, float(e / (e + 1)), 0.0]), atol=1e-4)
    text = prompt()
    assert same(sampled(model, text), by_hand(model, text, guidance=torch.tensor([3.5])))


def test_a_latent_of_another_family_is_refused():
    with pytest.raises(BadInput, match="16"):
        sampled(loaded(), prompt(), samples=torch.ones(1, 4, HEIGHT, WIDTH))


def test_a_prompt_without_its_vector_is_as_one_of_zeros():
    model, (text, _) = loaded(), prompt()[0]
    zeros = [[text, {"pooled_output": torch.zeros(1, 12)}]]
    assert torch.equal(sampled(model, [[text, {}]]), sampled(model, zeros))
