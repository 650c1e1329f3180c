import pytest
import torch

from limner.nodes import vae as nodes
from tests.nodes.make import EighthVAE


def test_decoding_flattens_frames_to_a_batch():
    class Video(EighthVAE):
        def decode(self, latent):
            return torch.zeros(2, 5, 8, 8, 3)

    assert nodes.decode({"samples": torch.zeros(2, 4, 2, 1, 1)}, Video()).shape == (10, 8, 8, 3)


def test_encoding_drops_alpha():
    vae = EighthVAE()
    made = nodes.encode(torch.rand(1, 16, 8, 4), vae)
    assert vae.encoded[0].shape[-1] == 3
    assert made["samples"].shape == (1, 4, 2, 1)


@pytest.mark.parametrize(
    ("tile", "overlap", "cells"), [(512, 64, (64, 8)), (128, 64, (16, 4)), (256, 64, (32, 8)), (96, 32, (12, 3))]
)
def test_tiles_are_handed_over_in_cells_with_at_most_a_quarter_of_overlap(tile, overlap, cells):
    vae = EighthVAE()
    nodes.decode_tiled({"samples": torch.rand(1, 4, 2, 2)}, vae, tile, overlap)
    assert vae.tiles == [
        {"tile_x": cells[0], "tile_y": cells[0], "overlap": cells[1], "tile_t": None, "overlap_t": None}
    ]


@pytest.mark.parametrize(
    ("size", "overlap", "frames"), [(64, 8, (16, 2)), (8, 8, (2, 1)), (64, 4, (16, 1)), (4096, 4096, (1024, 512))]
)
def test_videos_are_decoded_in_runs_of_frames(size, overlap, frames):
    class Video(EighthVAE):
        def temporal_compression_decode(self):
            return 4

    vae = Video()
    nodes.decode_tiled({"samples": torch.rand(1, 4, 2, 2)}, vae, temporal_size=size, temporal_overlap=overlap)
    assert (vae.tiles[0]["tile_t"], vae.tiles[0]["overlap_t"]) == frames


def test_encoding_tiles_are_handed_over_in_pixels():
    vae = EighthVAE()
    nodes.encode_tiled(torch.rand(1, 8, 8, 4), vae, 128, 32, 16, temporal_overlap=4)
    assert vae.tiles == [{"tile_x": 128, "tile_y": 128, "overlap": 32, "tile_t": 16, "overlap_t": 4}]
