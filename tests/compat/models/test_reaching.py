"""What packs try for in models and autoencoders, and how they make patchers of their own."""

import importlib

import pytest
import torch

from tests.compat.models.conftest import sampled


def test_a_place_that_is_not_there_is_an_attribute_error(parts):
    with pytest.raises(AttributeError, match="blocks"):
        parts.model.get_model_object("diffusion_model.blocks.0")


def test_going_down_the_models_ends(parts):
    found, steps = parts.model, 0
    while hasattr(found, "model") and steps < 5:
        found, steps = found.model, steps + 1
    assert found is parts.model.model


def test_a_patcher_made_of_a_models_model_is_that_model_without_its_changes(parts):
    plain = sampled(parts.model)
    changed = parts.model.clone()
    name = "diffusion_model.out.2.weight"
    changed.add_patches({name: ("diff", (torch.ones_like(changed.model_state_dict(name)[name]),))})
    changed.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 0)
    assert not torch.equal(sampled(changed), plain)
    patcher = importlib.import_module("comfy.model_patcher").ModelPatcher
    made = patcher(changed.model, load_device=changed.load_device, offload_device=changed.offload_device)
    assert isinstance(made, patcher)
    assert torch.equal(sampled(made), plain)


def test_patches_may_be_assigned_as_a_dict(parts):
    changed = parts.model.clone()
    name = "diffusion_model.out.2.weight"
    changed.add_patches({name: ("diff", (torch.ones_like(changed.model_state_dict(name)[name]),))})
    other = parts.model.clone()
    other.patches = {key: changed.patches[key][:] for key in changed.patches}
    assert torch.equal(sampled(other), sampled(changed))
    other.patches = {}
    assert torch.equal(sampled(other), sampled(parts.model))


def test_an_outer_wrapper_that_names_all_its_arguments_works(parts):
    patching = importlib.import_module("comfy.patcher_extension")
    model, seen = parts.model.clone(), []

    def wrapper(
        executor, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False, seed=None
    ):
        seen.append(seed)
        return executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)

    model.add_wrapper(patching.WrappersMP.OUTER_SAMPLE, wrapper)
    assert torch.equal(sampled(model), sampled(parts.model))
    assert seen == [3]


def test_an_autoencoder_can_be_run_block_by_block(parts):
    decoder = parts.vae.first_stage_model.decoder
    assert decoder.num_resolutions == len(decoder.up)
    assert (decoder.give_pre_end, decoder.tanh_out) == (False, False)
    level = decoder.up[0]
    assert len(level.block) == decoder.num_res_blocks + 1
    assert (level.block[0].in_channels, level.block[0].out_channels) == level.block[0].conv1.weight.shape[1::-1]
    attention = decoder.mid.attn_1
    x = torch.rand(1, attention.in_channels, 4, 4)
    with torch.no_grad():
        h = attention.norm(x)
        by_hand = x + attention.proj_out(attention.optimized_attention(attention.q(h), attention.k(h), attention.v(h)))
        assert torch.equal(by_hand, attention(x))


def test_looking_at_a_blurred_picture():
    sag = importlib.import_module("comfy_extras.nodes_sag")
    even = torch.full((1, 4, 16, 16), 0.5)
    assert torch.allclose(sag.gaussian_blur_2d(even, kernel_size=9, sigma=2.0), even)
    x, everywhere = torch.rand(1, 4, 16, 32), torch.full((2, 32, 32), 1.0)
    assert torch.allclose(sag.create_blur_map(x, everywhere), sag.gaussian_blur_2d(x, 9, 3.0))
    assert torch.equal(sag.create_blur_map(x, everywhere * 0), x)
    q = torch.rand(2, 6, 8)
    out, looks = sag.attention_basic_with_sim(q, q, q, heads=2)
    plain = importlib.import_module("comfy.ldm.modules.attention").optimized_attention(q, q, q, 2)
    assert torch.allclose(out, plain, atol=1e-5)
    assert looks.shape == (4, 6, 6)
