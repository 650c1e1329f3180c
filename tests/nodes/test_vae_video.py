"""Between pictures and the latents of videos."""

import torch

from limner.nodes import vae as nodes
from tests.models.vae.make import noise, video_vae


def test_frames_of_videos_come_out_as_a_batch_of_pictures():
    vae = video_vae()
    latent = {"samples": noise(2, 3, 3, 4, 5)}
    pictures = nodes.decode(latent, vae)
    assert pictures.shape == (10, 16, 20, 3)
    assert torch.equal(pictures[5:], vae.decode(latent["samples"])[1])
    assert nodes.decode({"samples": noise(2, 3, 4, 5)}, vae).shape == (2, 16, 20, 3)


def test_tiles_are_given_in_pixels_and_frames():
    vae = video_vae()
    asked = {}
    vae.decode_tiled = lambda samples, **given: asked.update(given) or torch.zeros(1, 5, 8, 8, 3)
    assert nodes.decode_tiled({"samples": noise(1, 3, 3, 4, 5)}, vae, 512, 64, 64, temporal_overlap=8).shape[0] == 5
    assert asked == {"tile_x": 128, "tile_y": 128, "overlap": 16, "tile_t": 32, "overlap_t": 4}


def test_a_batch_of_pictures_goes_in_as_one_video():
    vae = video_vae()
    frames = noise(5, 16, 20, 3)
    assert nodes.encode(frames, vae)["samples"].shape == (1, 3, 3, 4, 5)
    tiled = nodes.encode_tiled(frames, vae, 64, 0)["samples"]
    assert torch.allclose(tiled, vae.encode(frames), atol=1e-5)
