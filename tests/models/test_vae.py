"""Autoencoders: what shapes tell, layouts, moments. Their numbers are the golden cases' business."""

from dataclasses import replace

import pytest
import torch

from limner.errors import BadInput
from limner.models.vae.kl import KLConfig
from limner.models.vae.taesd import TAESD, TAESDConfig, TinyDecoder
from tests.models.make import TINY_KL, shapes_of, tiny_vae

PIXELS = torch.rand(1, 3, 8, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ch_mult": (1, 2, 4, 4), "num_res_blocks": 2},
        {"z_channels": 16, "embed_dim": 16, "quant": False},
        {"embed_dim": 3},
        {"double_z": False},
        {"attn_levels": (1,)},
    ],
)
def test_the_config_that_shapes_tell_is_the_one_the_autoencoder_was_made_with(changes):
    vae = tiny_vae(**changes)
    config = replace(TINY_KL, **changes)
    assert KLConfig.from_state(shapes_of(vae), {"norm_groups": 4}) == config
    with torch.inference_mode():
        latent = vae.encode(PIXELS)
        assert latent.shape == (1, config.embed_dim, 8 // config.downscale, 16 // config.downscale)
        assert vae.decode(latent).shape == (1, 3, 8, 16)


@pytest.mark.parametrize("said", [{"ch": 128}, {"ch_mult": [1, 2, 4, 4]}, {"z_channels": 16}, {"num_res_blocks": 2}])
def test_a_config_that_contradicts_the_tensors_is_refused(said):
    with pytest.raises(BadInput, match=next(iter(said))):
        KLConfig.from_state(shapes_of(tiny_vae()), {"norm_groups": 4, **said})


def test_half_of_the_quantising_convolutions_is_refused():
    shapes = shapes_of(tiny_vae())
    del shapes["quant_conv.weight"]
    with pytest.raises(BadInput, match="only one of"):
        KLConfig.from_state(shapes, {"norm_groups": 4})


def test_an_encoding_is_the_mean_of_the_moments():
    vae = tiny_vae()
    with torch.inference_mode():
        mean, log_variance = vae.moments(PIXELS)
        assert torch.equal(vae.encode(PIXELS), mean)
    assert log_variance.shape == mean.shape


def test_the_channels_last_layout_is_kept_and_changes_nothing():
    vae = tiny_vae()
    with torch.inference_mode():
        plain = vae(PIXELS)
        last = vae.to(memory_format=torch.channels_last)(PIXELS.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(plain, last, atol=1e-5)


def test_every_parameter_gets_a_gradient():
    vae = tiny_vae(attn_levels=(1,))
    vae(PIXELS).square().mean().backward()
    assert [name for name, parameter in vae.named_parameters() if parameter.grad is None] == []


def test_the_tiny_autoencoder_infers_its_channels_and_its_decoder_works_alone():
    config = TAESDConfig(latent_channels=16, width=8)
    assert TAESDConfig.from_state(shapes_of(TAESD(config)), {"latent_channels": 16}) == config
    with pytest.raises(BadInput, match="latent_channels"):
        TAESDConfig.from_state(shapes_of(TAESD(config)), {"latent_channels": 4})
    with torch.inference_mode():
        assert TinyDecoder(config)(torch.zeros(1, 16, 2, 3)).shape == (1, 3, 16, 24)
