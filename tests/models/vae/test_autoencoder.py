"""VAE: axes, tiles, dtypes, and what is refused."""

import logging

import pytest
import torch

from limner.errors import BadInput
from limner.models import autoencoder
from limner.models.pixel_space import pixel_space
from limner.models.vae.kind import autoencoders, recognise
from limner.models.vae.kl import KLConfig
from limner.weights import CheckpointHeader
from tests.models.checkpoints import real_header
from tests.models.make import tiny_vae
from tests.models.vae.make import memory, noise, picture_vae, video_vae


def test_the_folder_is_the_registry():
    assert set(autoencoders()) == {"kl-vae", "taesd", "wan-vae"}


@pytest.mark.parametrize(("file", "name"), [("vae-flux", "kl-vae"), ("vae-taef1", "taesd"), ("vae-wan2.1", "wan-vae")])
def test_published_files_are_of_one_kind_each(file, name):
    kind, header = recognise(real_header(file))
    kept = [one.name for one in autoencoders().values() if all(mark.test(header) for mark in one.marks)]
    assert kept == [name]
    assert kind.describe(kind.infer_config(header, {})).channels == 16


def test_flux_has_sixteen_channels_and_nothing_between_network_and_latent():
    kind, header = recognise(real_header("vae-flux"))
    assert kind.infer_config(header, {}) == KLConfig(z_channels=16, embed_dim=16, quant=False)


@pytest.mark.parametrize("extra", ["decoder.mid.block_1.mix_factor"])
def test_autoencoders_that_only_look_alike_are_not_taken(extra):
    state = tiny_vae().state_dict()
    assert recognise(CheckpointHeader.of(state)) is not None
    assert recognise(CheckpointHeader.of(state | {extra: torch.zeros(1)})) is None
    folded = state | {"encoder.down.0.downsample.conv.weight": torch.zeros(4, 8, 3, 3)}
    assert recognise(CheckpointHeader.of(folded)) is None


def test_a_video_comes_back_as_frames_and_a_lone_latent_as_pictures():
    vae = video_vae()
    latent = noise(2, 3, 3, 4, 5)
    videos = vae.decode(latent)
    assert videos.shape == (2, 5, 16, 20, 3)
    pictures = vae.decode(latent[:, :, 0])
    assert pictures.shape == (2, 16, 20, 3)
    assert torch.allclose(pictures, videos[:, 0], atol=1e-5)


def test_a_batch_of_pictures_is_one_video_of_a_video_autoencoder():
    vae = video_vae()
    frames = noise(5, 16, 21, 4)
    latent = vae.encode(frames)
    assert latent.shape == (1, 3, 3, 4, 5)
    assert torch.allclose(vae.encode(frames[None]), latent, atol=1e-6)
    assert vae.encode(frames[:1]).shape == (1, 3, 1, 4, 5)


def test_latent_frames_of_an_autoencoder_of_pictures_are_pictures():
    vae = picture_vae()
    latent = noise(2, 4, 3, 4, 5)
    decoded = vae.decode(latent)
    assert decoded.shape == (2, 3, 8, 10, 3)
    assert torch.allclose(decoded[1, 2], vae.decode(latent[1:, :, 2])[0], atol=1e-5)
    assert vae.encode(noise(2, 3, 8, 8, 3)).shape == (6, 4, 4, 4)


def test_what_packs_read_of_its_sizes():
    video, picture = video_vae(), picture_vae()
    assert (picture.latent_dim, picture.downscale_ratio, picture.temporal_compression_decode()) == (2, 2, None)
    assert (video.latent_dim, video.not_video, video.temporal_compression_decode()) == (3, False, 2)
    assert (video.spacial_compression_decode(), video.spacial_compression_encode()) == (4, 4)
    frames, height, width = video.upscale_ratio
    assert (frames(3), height, width) == (5, 4, 4)
    assert (video.downscale_ratio[0](5), video.downscale_ratio[0](6), frames(0)) == (3, 3, 0)


def test_latents_of_another_model_are_refused_by_their_channels():
    with pytest.raises(BadInput, match="16 channels"):
        picture_vae().decode(torch.zeros(1, 16, 4, 4))
    with pytest.raises(BadInput, match="16 channels"):
        video_vae().decode_tiled(torch.zeros(1, 16, 1, 4, 4))
    with pytest.raises(BadInput, match=r"shape \[4, 4\]"):
        video_vae().decode(torch.zeros(4, 4))


@pytest.mark.parametrize("vae", [picture_vae, video_vae])
def test_tiles_of_the_whole_are_the_whole(vae):
    made = vae()
    latent = noise(1, made.latent_channels, *([2] if made.latent_dim == 3 else []), 6, 5)
    whole = made.decode(latent)
    assert torch.allclose(made.decode_tiled(latent), whole, atol=1e-5)
    pixels = noise(3, 24, 24, 3)
    assert torch.allclose(made.encode_tiled(pixels), made.encode(pixels), atol=1e-5)


def test_tiles_in_time_have_all_frames_and_the_first_of_them_exactly():
    vae = video_vae()
    latent = noise(1, 3, 6, 4, 4)
    whole, tiled = vae.decode(latent), vae.decode_tiled(latent, 64, 64, 0, 3, 1)
    assert tiled.shape == whole.shape == (1, 11, 16, 16, 3)
    assert torch.allclose(tiled[:, :4], whole[:, :4], atol=1e-5)
    by_name = vae.decode_tiled_3d(latent, 3, 64, 64, (1, 0, 0))
    assert torch.allclose(by_name.movedim(1, -1), tiled, atol=1e-6)
    pixels = noise(1, 11, 16, 16, 3)
    encoded = vae.encode_tiled(pixels, 64, 64, 0, 6, 2)
    assert encoded.shape == (1, 3, 6, 4, 4)
    assert torch.equal(vae.encode_tiled_3d(pixels.movedim(-1, 1), 6, 64, 64, (2, 0, 0)), encoded)


@pytest.mark.parametrize("vae", [picture_vae, video_vae])
def test_what_does_not_fit_is_done_in_tiles_before_memory_runs_out(vae, caplog, monkeypatch):
    for name, size in {"DECODE_TILE": 8, "DECODE_OVERLAP": 2, "ENCODE_TILE": 32, "ENCODE_OVERLAP": 8, "VIDEO_TILE": 32,
                       "VIDEO_OVERLAP": 8}.items():  # fmt: skip
        monkeypatch.setattr(autoencoder, name, size)
    latent = noise(1, vae().latent_channels, 14, 10)
    pixels = noise(1, 56, 40, 3)
    tight = vae(memory(bytes_left=vae().model_size()))
    with caplog.at_level(logging.INFO):
        decoded, encoded = tight.decode(latent), tight.encode(pixels)
    said = [record.message for record in caplog.records]
    assert [("decodes" in one, "encodes" in one, "in tiles" in one) for one in said] == [
        (True, False, True),
        (False, True, True),
    ]
    assert torch.equal(decoded, vae().decode_tiled(latent))
    assert torch.equal(encoded, vae().encode_tiled(pixels, 32, 32, 8))
    assert not torch.allclose(decoded, vae().decode(latent), atol=1e-3)


def test_a_batch_is_split_by_the_memory_that_is_left():
    vae = picture_vae()
    latent = noise(4, 4, 48, 48)
    sizes = []
    each = int(vae.memory_used_decode(latent.shape, torch.float32))
    tight = picture_vae(memory(bytes_left=vae.model_size() + each * 2))
    plain = tight._decode
    tight._decode = lambda network, part: sizes.append(len(part)) or plain(network, part)
    assert torch.allclose(tight.decode(latent), vae.decode(latent), atol=1e-5)
    assert sizes == [2, 2]


def test_tiles_that_overlap_wholly_are_refused():
    with pytest.raises(BadInput, match="overlap by 16"):
        picture_vae().decode_tiled(noise(1, 4, 40, 40), 16, 16, 16)


def test_an_autoencoder_computes_in_what_its_kind_and_the_flags_say():
    assert video_vae(memory(bf16_vae=True)).dtype == torch.bfloat16
    assert picture_vae(memory(fp32_vae=True)).dtype == torch.float32
    latent = noise(1, 3, 2, 4, 4)
    half, full = video_vae(memory(bf16_vae=True)).decode(latent), video_vae().decode(latent)
    assert half.dtype == torch.float32
    assert (half - full).abs().max() < 0.05


def test_a_picture_is_its_own_latent_in_pixel_space():
    vae = pixel_space(memory())
    picture = noise(1, 5, 6, 3)
    assert torch.allclose(vae.decode(vae.encode(picture)), picture, atol=1e-6)
