"""Guidance nodes: each formula against numbers that can be worked out by hand, and inside whole runs of toy models."""

import math
from types import SimpleNamespace

import pytest
import torch

from limner.errors import BadInput
from limner.models.load import load_checkpoint, load_diffusion_model
from limner.nodes import custom_sampling, guidance, unet_patches
from limner.sampling import CFGGuider, get_sampler, make_sampling
from limner.sampling import guidance_variants as variants
from limner.sampling.latent import LatentFormat
from tests.models.checkpoints import checkpoint, memory
from tests.sampling.make import conditioning, toy


class Hooked:
    """A model that keeps the hooks it is given."""

    latent_format = LatentFormat()

    def __init__(self, sampling="eps"):
        self.sampling = make_sampling(sampling)
        self.hooks = {}

    def clone(self):
        return Hooked()

    def set_model_sampler_cfg_function(self, function):
        self.hooks["cfg"] = function

    def set_model_sampler_pre_cfg_function(self, function):
        self.hooks["pre"] = function

    def set_model_sampler_post_cfg_function(self, function, disable_cfg1_optimization=False):
        self.hooks["post"], self.hooks["uncond"] = function, disable_cfg1_optimization

    def set_model_denoise_mask_function(self, function):
        self.hooks["mask"] = function


def one(*values):
    return torch.tensor(values).view(1, 1, 1, -1)


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pre(hook, cond, uncond, x=None):
    given = {"conds_out": [cond, uncond], "conds": [[1], [1]], "input": cond if x is None else x, "cond_scale": 2.0}
    return hook({**given, "sigma": torch.ones(1)})


def test_tangential_damping_keeps_what_both_scores_share():
    x = torch.zeros(1, 2, 1, 1)
    cond, uncond = torch.tensor([-3.0, 0.0]).view(1, 2, 1, 1), torch.tensor([-1.0, -1.0]).view(1, 2, 1, 1)
    changed = pre(guidance.tangential(Hooked()).patched_model.hooks["pre"], cond, uncond, x)
    scores = torch.tensor([[1.0, 1.0], [3.0, 0.0]])
    direction = torch.linalg.eigh(scores.T @ scores)[1][:, -1]
    expected = -(scores[0] @ direction) * direction
    assert torch.allclose(changed[1].flatten(), expected, atol=1e-6)
    assert changed[0] is cond


def test_tangential_damping_of_equal_scores_changes_nothing():
    cond = noise(0, 2, 4, 3, 3)
    assert torch.allclose(pre(variants.tangential_damping(), cond, cond, noise(1, 2, 4, 3, 3))[1], cond, atol=1e-5)


@pytest.mark.parametrize(
    ("time", "expected"), [(0.5, [4 * 5 / 4.0, 3 * 5 / 4.0]), (2.0, [4.0, 3.0])], ids=["guided", "too noisy"]
)
def test_renormed_guidance_is_no_longer_than_the_conditional(time, expected):
    hook = guidance.renorm(Hooked(), 1.0, 1.25).hooks["cfg"]
    cond = torch.tensor([4.0, 3.0, 0.0, 0.0, 9.0]).view(1, 5, 1, 1)
    args = {"cond": cond, "uncond": torch.zeros_like(cond), "cond_scale": 7.0, "timestep": torch.tensor([time])}
    assert hook(args).flatten().tolist() == pytest.approx([*expected, 0, 0, 9])


def test_epsilon_scaling_divides_the_predicted_noise():
    hook = guidance.epsilon_scaling(Hooked(), 2.0).hooks["post"]
    assert hook({"input": one(5.0), "denoised": one(1.0)}).item() == 3.0


def test_score_rescaling_at_a_known_ratio():
    hook = guidance.score_rescaling(Hooked(), 0.5, 1.0).patched_model.hooks["post"]
    # sigma 1: snr 1, ratio (1 + 1) / (2 + 1)
    found = hook({"input": one(4.0), "denoised": one(1.0), "sigma": torch.ones(1)}).item()
    assert found == pytest.approx(4 + (1 - 4) * 2 / 3)


def test_score_rescaling_by_one_changes_nothing():
    hook = guidance.score_rescaling(Hooked(), 1.0, 3.0).patched_model.hooks["post"]
    assert hook({"input": one(4.0), "denoised": one(1.0), "sigma": torch.ones(1)}).item() == 1.0


def test_frequency_scaling_by_ones_changes_nothing_and_the_mean_is_low():
    cond, uncond = noise(0, 1, 4, 8, 8), noise(1, 1, 4, 8, 8)
    assert torch.allclose(pre(variants.frequency_scaling(1.0, 1.0, 2), cond, uncond)[0], cond, atol=1e-5)
    doubled = pre(variants.frequency_scaling(2.0, 1.0, 1), cond, uncond)[0]
    assert torch.allclose((doubled - uncond).mean((2, 3)), 2 * (cond - uncond).mean((2, 3)), atol=1e-5)
    high = pre(variants.frequency_scaling(1.0, 3.0, 1), cond, uncond)[0]
    assert torch.allclose((high - uncond).mean((2, 3)), (cond - uncond).mean((2, 3)), atol=1e-5)


@pytest.mark.parametrize(
    ("node", "scales"), [(guidance.linear_by_frame, [1, 2, 3, 4, 5]), (guidance.triangle_by_frame, [1, 3, 5, 3, 1])]
)
def test_guidance_by_frame(node, scales):
    hook = node(Hooked(), 1.0).hooks["cfg"]
    frames = torch.ones(5, 1, 1, 1)
    found = hook({"cond": frames, "uncond": torch.zeros_like(frames), "cond_scale": 5.0})
    assert found.flatten().tolist() == pytest.approx(scales)


def test_differential_diffusion_is_a_mask_function():
    hook = guidance.differential_diffusion(Hooked(), 0.5).hooks["mask"]
    levels = torch.tensor([14.0, 1.0, 0.0])
    first = hook(levels[:1], one(0.2, 1.0), extra_options={"sigmas": levels})
    assert first.flatten().tolist() == pytest.approx([0.1, 1.0])  # nothing but the white is free at the first step


def sampled(model, **options):
    model.options = options
    guider = CFGGuider(model)
    guider.set_conds(conditioning(1.0), conditioning(0.0))
    guider.set_cfg(3.0)
    levels = torch.tensor([14.0, 4.0, 1.0, 0.0])
    return guider.sample(noise(5, 1, 4, 8, 8), torch.zeros(1, 4, 8, 8), get_sampler("euler"), levels, seed=1)


def test_the_deprecated_perpendicular_negative_is_what_the_guider_does():
    model = toy()
    hook = guidance.perpendicular_negative(Hooked(), conditioning(0.4), 1.2).hooks["cfg"]
    found = sampled(model, sampler_cfg_function=hook)
    other = toy()
    guider = custom_sampling.perp_neg_guider(
        other, conditioning(1.0), conditioning(0.0), conditioning(0.4), cfg=3.0, neg_scale=1.2
    )
    levels = torch.tensor([14.0, 4.0, 1.0, 0.0])
    wanted = guider.sample(noise(5, 1, 4, 8, 8), torch.zeros(1, 4, 8, 8), get_sampler("euler"), levels, seed=1)
    assert torch.allclose(found, wanted, atol=1e-4)


def test_an_operation_before_guidance_sees_the_guidance():
    doubled = guidance.operation_before_guidance(Hooked(), lambda latent: latent * 2).hooks["pre"]
    cond, uncond = one(5.0), one(2.0)
    assert pre(doubled, cond, uncond)[0].item() == 2 * 3 + 2


def test_a_blur_of_nothing_is_nothing_and_keeps_sums():
    x = noise(0, 1, 2, 12, 12)
    assert variants.blurred(x, 0.0) is x
    assert torch.allclose(variants.blurred(torch.ones(1, 2, 12, 12), 2.0), torch.ones(1, 2, 12, 12))
    weight = [math.exp(-0.5 * (d / 2.0) ** 2) for d in range(-4, 5)]
    dot = torch.zeros(1, 1, 9, 9)
    dot[..., 4, 4] = 1
    assert float(variants.blurred(dot, 2.0)[..., 4, 4]) == pytest.approx(1 / sum(weight) ** 2, rel=1e-5)


def test_the_attention_map_marks_what_is_looked_at_by_the_unconditional_rows():
    record = variants.SelfAttentionMap()
    keys = torch.zeros(2, 4, 2)
    keys[1, 2] = 20.0  # row 1 is the unconditional; its third place draws every look
    q = torch.ones(2, 4, 2)
    options = {"n_heads": 1, "cond_or_uncond": [0, 1], "activations_shape": [2, 8, 2, 2]}
    values = torch.arange(8.0).view(1, 4, 2).expand(2, -1, -1)
    out = record(q, keys, values, options)
    assert record.mask.flatten().tolist() == [0, 0, 1, 0]
    assert torch.allclose(out[1], values[1, 2].expand(4, -1), atol=1e-3)
    assert torch.allclose(out[0], values[0].mean(0).expand(4, -1))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_diffusion_model(checkpoint(tmp_path_factory.mktemp("tiny")), memory())


def painted(model, cfg=2.0, side=8):
    guider = CFGGuider(model)
    guider.set_conds([[noise(3, 1, 4, 6), {}]], [[noise(4, 1, 4, 6), {}]])
    guider.set_cfg(cfg)
    levels = torch.tensor([3.0, 1.0, 0.0])
    latent = torch.zeros(1, 4, side, side)
    return guider.sample(noise(5, 1, 4, side, side), latent, get_sampler("euler"), levels, seed=1)


@pytest.mark.parametrize(
    ("neutral", "strong"),
    [
        (lambda m: guidance.perturbed_attention(m, 0.0), lambda m: guidance.perturbed_attention(m, 3.0)),
        (lambda m: guidance.self_attention(m, 0.0, 2.0), lambda m: guidance.self_attention(m, 2.0, 2.0)),
        (lambda m: unet_patches.free_u(m, 1.0, 1.0, 1.0, 1.0), unet_patches.free_u),
        (lambda m: unet_patches.free_u_2(m, 1.0, 1.0, 1.0, 1.0), unet_patches.free_u_2),
        (lambda m: unet_patches.token_merging(m, 0.0), lambda m: unet_patches.token_merging(m, 0.5)),
        (lambda m: unet_patches.hyper_tile(m, 64), lambda m: unet_patches.hyper_tile(m, 32)),
        (
            lambda m: unet_patches.deep_shrink(m, 1, 2.0, 1.0, 1.0, downscale_method="area", upscale_method="area"),
            lambda m: unet_patches.deep_shrink(m, 1, 2.0, downscale_method="bicubic", upscale_method="bicubic"),
        ),
        (unet_patches.scale_self_attention, lambda m: unet_patches.scale_self_attention(m, q=3.0)),
        (unet_patches.scale_cross_attention, lambda m: unet_patches.scale_cross_attention(m, v=3.0)),
    ],
    ids=["pag", "sag", "freeu", "freeu_v2", "tome", "hypertile", "shrink", "self-attention", "cross-attention"],
)
def test_a_patch_that_says_nothing_changes_nothing_and_one_that_does_is_repeatable(model, neutral, strong):
    plain = painted(model)
    assert torch.allclose(painted(neutral(model)), plain, atol=1e-4)
    patched = strong(model)
    changed = painted(patched)
    assert not torch.allclose(changed, plain, atol=1e-3)
    assert torch.isfinite(changed).all()
    assert torch.equal(painted(patched), changed)


def test_self_attention_guidance_predicts_the_negative_at_any_scale(model):
    assert guidance.self_attention(model).model_options["disable_cfg1_optimization"] is True


def test_scaled_attention_scales_weights_and_biases():
    class Source:
        prefix = "diffusion_model."
        tensors = dict.fromkeys(("a.attn1.to_out.0.weight", "a.attn1.to_out.0.bias", "a.attn2.to_out.0.bias", "a.ff"))

    class Target:
        source = Source

        def clone(self):
            self.added = []
            return self

        def add_patches(self, patches, strength_patch, strength_model):
            self.added.append((sorted(patches), strength_patch, strength_model))

    changed = unet_patches.scale_self_attention(Target(), out=0.5)
    keys = ["diffusion_model.a.attn1.to_out.0.bias", "diffusion_model.a.attn1.to_out.0.weight"]
    assert changed.added[-1] == (keys, 0.0, 0.5)


def test_scaled_queries_of_a_text_encoder_are_scaled_weights(tmp_path):
    clip = load_checkpoint(checkpoint(tmp_path), memory()).clip
    scaled = unet_patches.scale_clip_attention(clip, q=2.0)
    name = "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"
    assert torch.allclose(scaled.source.patched(name), 2 * clip.source.patched(name))
    other = name.replace("q_proj", "v_proj")
    assert torch.equal(scaled.source.patched(other), clip.source.patched(other))


def test_free_u_needs_a_unet():
    other = SimpleNamespace(config=object(), family=SimpleNamespace(title="Flux"))
    with pytest.raises(BadInput, match="UNet"):
        unet_patches.free_u(other)
