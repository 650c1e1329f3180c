"""What packs reach into: text encoders, autoencoders, schedules, state dicts, layers."""

import pytest
import torch

from limner.models.convert import unet_aliases
from limner.sampling import make_sampling
from tests.models.checkpoints import real_header


def test_a_text_encoder_is_reached_by_its_name(parts):
    import comfy.model_patcher
    import comfy.sd1_clip

    clip = parts.clip
    tokens = clip.tokenize("a (cat:1.5)")
    assert isinstance(clip.patcher, comfy.model_patcher.ModelPatcher)
    assert isinstance(clip.cond_stage_model, comfy.sd1_clip.SD1ClipModel)
    assert isinstance(clip.cond_stage_model.clip_l, comfy.sd1_clip.SDClipModel)
    cond, pooled = clip.cond_stage_model.encode_token_weights(tokens)
    again, other = clip.cond_stage_model.clip_l.encode_token_weights(tokens["l"])
    assert torch.equal(cond, clip.encode_from_tokens(tokens))
    assert torch.equal(cond, again)
    assert torch.equal(pooled, other)


def test_options_of_a_text_encoder_choose_its_layer_until_they_are_taken_back(parts):
    clip = parts.clip.clone()
    tokens = clip.tokenize("cat")
    last = clip.encode_from_tokens(tokens)
    clip.cond_stage_model.set_clip_options({"layer": -2})
    before = clip.encode_from_tokens(tokens)
    clip.cond_stage_model.reset_clip_options()
    other = parts.clip.clone()
    other.clip_layer(-2)
    assert torch.equal(before, other.encode_from_tokens(tokens))
    assert torch.equal(last, clip.encode_from_tokens(tokens))
    assert not torch.equal(last, before)


def test_a_tokenizer_tells_its_words_and_special_tokens(parts):
    tokenizer = parts.clip.tokenizer.clip_l
    rows = tokenizer.tokenize_with_weights("cat dog", return_word_ids=True)
    assert [len(token) for token in rows[0][:3]] == [3, 3, 3]
    assert (tokenizer.start_token, tokenizer.end_token, tokenizer.max_length) == (516, 517, 77)
    assert tokenizer.tokenizer("cat")["input_ids"] == [516, 513, 517]
    assert tokenizer.embedding_size == 8
    assert tokenizer.untokenize(rows[0])[1][1] == "cat</w>"


def test_text_encoders_are_patched_through_their_patcher(parts):
    clip = parts.clip.clone()
    key = next(name for name in clip.get_sd() if name.endswith("fc1.weight"))
    assert clip.patcher.add_patches({key: ("diff", (torch.ones(16, 8),))}) == [key]
    assert list(clip.patcher.patches) == [key]
    assert not list(parts.clip.patcher.patches)


def test_an_autoencoder_shows_its_network_and_sizes(parts):
    vae = parts.vae
    assert vae.latent_channels == 4
    assert (vae.downscale_ratio, vae.upscale_ratio) == (2, 2)
    assert vae.first_stage_model is vae.patcher.model
    assert vae.process_input(torch.zeros(1)).item() == -1
    assert vae.memory_used_decode((1, 4, 8, 8), torch.float32) > 0
    latent = torch.zeros(1, 4, 4, 4)
    assert torch.equal(vae.decode(latent), vae.decode(latent, vae_options={}))
    assert torch.allclose(vae.decode_tiled_(latent).movedim(1, -1), vae.decode(latent), atol=1e-5)


KINDS = [
    ("ModelSamplingDiscrete", "EPS", "eps"),
    ("ModelSamplingDiscrete", "V_PREDICTION", "v"),
    ("ModelSamplingContinuousEDM", "EDM", "edm"),
    ("ModelSamplingContinuousV", "V_PREDICTION", "v_continuous"),
    ("ModelSamplingDiscreteFlow", "CONST", "flow"),
    ("ModelSamplingFlux", "CONST", "flux"),
    ("StableCascadeSampling", "EPS", "cascade"),
]


@pytest.mark.parametrize(("levels", "prediction", "kind"), KINDS)
def test_noise_levels_as_classes_are_those_of_the_core(base, levels, prediction, kind):
    import comfy.model_sampling
    import comfy.samplers

    made = type("Made", (getattr(comfy.model_sampling, levels), getattr(comfy.model_sampling, prediction)), {})()
    if kind == "edm":
        made.set_parameters(0.002, 120.0, 0.5)
    if kind == "v_continuous":
        made.set_parameters(0.03, 500.0, 1.0)
    own = make_sampling(kind)
    assert isinstance(own, getattr(comfy.model_sampling, levels))
    assert isinstance(own, getattr(comfy.model_sampling, prediction))
    assert made.sigma_max.item() == pytest.approx(own.sigma_max)
    x, out, sigma = torch.ones(2, 4, 2, 2), torch.full((2, 4, 2, 2), 0.5), torch.tensor([0.3, 0.7])
    assert torch.allclose(made.calculate_denoised(sigma, out, x), own.calculate_denoised(sigma, out, x))
    assert torch.allclose(made.calculate_input(sigma, x), own.calculate_input(sigma, x))
    assert made.percent_to_sigma(0.3) == pytest.approx(own.percent_to_sigma(0.3))
    for scheduler in ("normal", "karras", "beta"):
        found = [comfy.samplers.calculate_sigmas(one, scheduler, 4) for one in (made, own)]
        assert torch.allclose(*found, rtol=1e-4)


def test_a_unets_names_in_diffusers_are_those_of_the_core(base):
    import comfy.model_detection
    import comfy.utils

    from limner.models.unet import UNetConfig

    header = real_header("sd15-unet").select("model.diffusion_model.")
    config = comfy.model_detection.plain(UNetConfig.from_state(header.shapes(), {}))
    found = comfy.utils.unet_to_diffusers(config)
    wanted = unet_aliases(list(header), config["num_res_blocks"])
    present = {f"{alias}.weight": f"{name}.weight" for alias, name in wanted.items()}
    assert {alias: name for alias, name in found.items() if name in header and name.endswith(".weight")} == present


def test_tiles_over_three_axes_each_have_an_overlap_and_a_scale(base):
    import comfy.utils

    x = torch.randn(1, 2, 9, 10, 12, generator=torch.manual_seed(0))
    calls = []

    def grow(part):
        calls.append(part.shape)
        return part.repeat_interleave(2, 2).repeat_interleave(3, 3).repeat_interleave(3, 4)

    found = comfy.utils.tiled_scale_multidim(
        x, grow, tile=(4, 6, 6), overlap=(1, 2, 2), upscale_amount=(lambda a: a * 2, 3, 3), out_channels=2
    )
    assert found.shape == (1, 2, 18, 30, 36)
    assert torch.allclose(found, grow(x), atol=1e-5)
    assert len(calls) > 8


def test_rounding_at_random_is_right_on_average(base):
    from comfy.float import stochastic_rounding

    x = torch.full((20000,), 1.03)
    rounded = stochastic_rounding(x, torch.float8_e4m3fn, seed=4).float()
    assert set(rounded.tolist()) == {1.0, 1.125}
    assert rounded.mean().item() == pytest.approx(1.03, abs=0.005)
    kept = torch.tensor([0.5, -2.0, 448.0, 0.0])
    assert torch.equal(stochastic_rounding(kept, torch.float8_e4m3fn).float(), kept)


def test_latents_of_several_shapes_are_packed_and_unpacked(base):
    import comfy.utils

    latents = [torch.randn(2, 4, 3, 3), torch.randn(2, 8, 5)]
    packed, shapes = comfy.utils.pack_latents(latents)
    assert packed.shape == (2, 1, 36 + 40)
    assert all(torch.equal(*pair) for pair in zip(comfy.utils.unpack_latents(packed, shapes), latents, strict=True))


def test_placeholders_are_classes_that_say_what_is_missing(base):
    from comfy.ldm.wan.model import WanI2VCrossAttention

    from limner.errors import LimnerError

    class Mine(WanI2VCrossAttention):
        pass

    assert callable(WanI2VCrossAttention.forward)
    for use in (WanI2VCrossAttention, Mine, WanI2VCrossAttention.forward):
        with pytest.raises(LimnerError, match="Wan"):
            use(8, 2)
