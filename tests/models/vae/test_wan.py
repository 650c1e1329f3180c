"""The causal video autoencoder. Its numbers are the golden cases' and the comparison's with diffusers."""

import pytest
import torch

from benchmarks._live_bytes import peak_of
from limner.errors import BadInput
from limner.models.vae.kind import Frames, recognise
from limner.models.vae.wan import CausalConv3d, RMSNorm, WanConfig
from tests.models.checkpoints import real_header
from tests.models.make import shapes_of
from tests.models.vae.make import TINY_WAN, noise, tiny_wan


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dim_mult": (1, 2, 4, 4), "temperal_downsample": (False, True, True), "num_res_blocks": 2},
        {"temperal_downsample": (True, False)},
        {"in_channels": 4, "z_dim": 16},
        {"attn_levels": (1,)},
    ],
)
def test_the_config_that_shapes_tell_is_the_one_the_autoencoder_was_made_with(changes):
    vae = tiny_wan(**changes)
    config = WanConfig(**{**TINY_WAN.__dict__, **changes})
    assert WanConfig.from_state(shapes_of(vae), {}) == config
    video = noise(1, config.in_channels, 1 + config.group, 16, 24) * 2 - 1
    with torch.inference_mode():
        latent = vae.encode(video)
        assert latent.shape == (1, config.z_dim, 2, 16 // config.downscale, 24 // config.downscale)
        assert vae.decode(latent).shape == video.shape


def test_a_published_file_is_recognised_with_its_dimensions():
    kind, header = recognise(real_header("vae-wan2.1"))
    config = kind.infer_config(header, {"dim": 96, "temperal_downsample": [False, True, True]})
    assert (kind.name, config) == ("wan-vae", WanConfig())
    assert kind.describe(config).frames == Frames(4)


@pytest.mark.parametrize("said", [{"dim": 96}, {"z_dim": 16}, {"temperal_downsample": [True, True]}])
def test_a_config_that_contradicts_the_tensors_is_refused(said):
    with pytest.raises(BadInput, match=next(iter(said))):
        WanConfig.from_state(shapes_of(tiny_wan()), said)


@torch.inference_mode()
def test_no_frame_sees_a_later_one():
    vae = tiny_wan()
    latent = noise(1, 3, 4, 2, 3)
    assert torch.equal(vae.decode(latent)[:, :, :3], vae.decode(latent[:, :, :2]))
    video = noise(1, 3, 7, 8, 8)
    assert torch.equal(vae.encode(video)[:, :, :2], vae.encode(video[:, :, :3]))


@torch.inference_mode()
def test_a_lone_frame_is_the_first_of_a_video():
    vae = tiny_wan()
    latent = noise(1, 3, 2, 2, 3)
    assert torch.allclose(vae.decode(latent)[:, :, :1], vae.decode(latent[:, :, :1]), atol=1e-6)


@torch.inference_mode()
def test_frames_that_fill_no_group_are_left_out():
    vae = tiny_wan(temperal_downsample=(True, True))
    video = noise(1, 3, 8, 8, 8)
    assert torch.equal(vae.encode(video), vae.encode(video[:, :, :5]))


@torch.inference_mode()
def test_frames_one_by_one_are_the_convolution_of_all_at_once():
    conv = CausalConv3d(3, 5, 3, padding=1)
    video = noise(2, 3, 5, 4, 6)
    past = {}
    steps = [conv.step(video[:, :, t], past) for t in range(5)]
    assert torch.allclose(torch.stack(steps, 2), conv(video), atol=1e-6)
    rest = conv(video[:, :, 3:], past=video[:, :, 1:3])
    assert torch.allclose(rest, conv(video)[:, :, 3:], atol=1e-6)


def test_the_norm_is_the_same_with_and_without_gradients_and_takes_pictures_and_videos():
    norm = RMSNorm(6, images=False)
    video = noise(2, 6, 3, 4, 4)
    expected = video / video.norm(dim=1, keepdim=True) * 6**0.5
    assert torch.allclose(norm(video), expected, atol=1e-6)
    with torch.inference_mode():
        assert torch.allclose(norm(video), expected, atol=1e-6)
        assert torch.allclose(norm(video[:, :, 0]), expected[:, :, 0], atol=1e-6)
        assert norm(video.bfloat16()).dtype == torch.bfloat16
        biased = RMSNorm(6, images=False, bias=True)
        biased.bias.fill_(2.0)
        assert torch.allclose(biased(video), expected + 2, atol=1e-6)
        assert torch.allclose(RMSNorm(6, channel_first=False)(video.movedim(1, -1)), expected.movedim(1, -1), atol=1e-6)


def test_every_parameter_gets_a_gradient():
    vae = tiny_wan(attn_levels=(1,))
    vae(noise(1, 3, 5, 8, 8)).square().mean().backward()
    assert [name for name, parameter in vae.named_parameters() if parameter.grad is None] == []


def test_a_longer_video_takes_only_its_frames_more():
    vae = tiny_wan()
    short, long = (peak_of(vae.decode, noise(1, 3, frames, 4, 4), module=vae) for frames in (3, 7))
    frames = 8 * 3 * 16 * 16 * 4  # eight more of three colours
    latents = 4 * 3 * 4 * 4 * 4
    assert 0 <= long - short <= frames + latents


def test_a_latent_without_frames_is_refused():
    with pytest.raises(BadInput, match="no frames"):
        tiny_wan().decode(torch.zeros(1, 3, 0, 2, 2))
