"""What a pass is said to take beside the weights is enough, and not much more: at full width, without its memory."""

from dataclasses import replace

import pytest
import torch

from benchmarks._memory_parts import autoencoders, published_controls, residuals_of, texts, visions
from benchmarks._weightless import built, diffusion_model, peak_beside, peak_of_pass, weightless
from limner.models.vae.kl import AttnBlock
from tests.models.checkpoints import real_header
from tests.models.make import tiny_flux, tiny_unet, tiny_vae

BFLOAT16 = torch.bfloat16
FEW_BLOCKS = {
    "sd15": {},
    "flux-dev": {"depth": 1, "depth_single_blocks": 1},
    "sd35-medium": {"depth": 2, "dual_attention": (0,)},
    "qwen-image": {"num_layers": 2},
}
"""Headers of published builds and fewer blocks of them, which take as much at their worst moment as all."""


def model_of(name, dtype=BFLOAT16):
    model = diffusion_model(real_header(name), dtype)
    known = {key: value for key, value in FEW_BLOCKS[name].items() if hasattr(model.config, key)}
    config = replace(model.config, **known)
    model.source = replace(model.source, build=lambda: model.family.network(config))
    model.model.device = torch.device("meta")  # asked as for an accelerator
    return model


def entries_of(model, tokens=77, **more):
    pooled = getattr(model.config, "vec_in_dim", None) or getattr(model.config, "adm_in_channels", None)
    width = model.family.context_width(model.config)

    def entries():
        found = {"cross_attn": torch.zeros(1, tokens, width)}
        if pooled:
            found["pooled_output"] = torch.zeros(1, pooled)
        return found | {name: [torch.zeros(shape) for shape in shapes] for name, shapes in more.items()}

    return entries


def said_of(model, shape, entries):
    told = model.model.extra_conds_shapes(**entries())
    batched = {name: [(shape[0], *one[1:]) for one in several] for name, several in told.items()}
    return model.memory_required(shape, batched)


@pytest.mark.parametrize("name", FEW_BLOCKS)
def test_a_pass_takes_what_is_said_and_at_least_two_thirds_of_it(name):
    model = model_of(name)
    shape = (2, model.latent_format.channels, 64, 64)
    entries = entries_of(model, tokens=154)
    measured = peak_of_pass(model, shape, entries)
    assert measured <= said_of(model, shape, entries) <= 1.5 * measured


@pytest.mark.parametrize("name", ["flux-dev", "qwen-image"])
def test_pictures_to_go_by_count_as_cells(name):
    model, shape = model_of(name), (1, 16, 128, 128)
    entries = entries_of(model, reference_latents=[(1, 16, 128, 128), (1, 16, 64, 64)])
    measured = peak_of_pass(model, shape, entries)
    assert measured <= said_of(model, shape, entries) <= 1.3 * measured


def test_text_that_is_not_said_has_256_tokens():
    model = model_of("flux-dev")
    assert model.memory_required((2, 16, 64, 64)) == model.memory_required(
        (2, 16, 64, 64), {"c_crossattn": [(2, 256, 4096)]}
    )


def test_a_weight_that_is_cast_counts_once():
    model = model_of("sd15")
    without = model.memory_required((1, 4, 64, 64))
    model.set_model_compute_dtype(torch.float16)  # two bytes as well, but not as the weights are kept
    largest = max(entry.nbytes // entry.dtype.itemsize for entry in model.source.tensors.values())
    assert model.memory_required((1, 4, 64, 64)) - without == 2 * largest


def refuted(found):
    return [one for one in found if not one.measured <= one.said <= one.most * one.measured]


def test_autoencoders():
    found = [*autoencoders((256,), ("sd", "taef1"), (BFLOAT16,))]
    assert {one.kind for one in found} == {"decoding", "encoding"}
    assert refuted(found) == []


def test_text_vision_and_controls():
    found = [*texts(("te-clip-l", "te-t5-base"), (BFLOAT16,)), *visions(("CLIP-L",))]
    assert {one.kind for one in found} == {"text", "vision"}
    assert refuted(found) == []


@pytest.mark.parametrize("name", ["Stable Diffusion 1", "Stable Diffusion 3"])
def test_residuals_of_controls(name):
    assert refuted([residuals_of(name, published_controls()[name], cells=32)]) == []


def test_a_picture_in_the_middle_of_an_autoencoder_makes_no_scores():
    with weightless():
        network = built(lambda: AttnBlock(512, 32), BFLOAT16)
        pixels = torch.zeros(1, 512, 128, 128, dtype=BFLOAT16)
        peak = peak_beside(network, lambda: network(pixels), taken_apart=True)
    assert peak <= 8 * pixels.nbytes  # a score for each pair of pixels would be 32 times that


def flux_pass(network):
    return network(torch.zeros(1, 16, 16, 12), torch.ones(1), context=torch.zeros(1, 9, 20), y=torch.zeros(1, 12))


PASSES = {
    "unet": (tiny_unet, lambda network: network(torch.zeros(2, 4, 16, 8), torch.ones(2), context=torch.zeros(2, 5, 6))),
    "flux": (lambda: tiny_flux(guidance_embed=False), flux_pass),
    "vae": (tiny_vae, lambda network: network.decode(torch.zeros(1, 4, 16, 8))),
}


@pytest.mark.parametrize("name", PASSES)
def test_tensors_without_memory_count_as_those_that_have_it(name):
    build, compute = PASSES[name]
    real = build().requires_grad_(False)
    peak = peak_beside(real, lambda: compute(real), taken_apart=True)
    with weightless():
        fake = built(lambda: type(real)(real.config), torch.float32)
        assert peak_beside(fake, lambda: compute(fake), taken_apart=True) == pytest.approx(peak, rel=0.02)
