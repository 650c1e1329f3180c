"""Hooks of a UNet's pass alone: what they do to tensors whose answer is known."""

import pytest
import torch

from limner.sampling import unet_patches as patches


def options(height, width, **more):
    return {"original_shape": [1, 4, height, width], "sigmas": torch.tensor([1.0]), "transformer_index": 0, **more}


def ramp(*shape):
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(*shape)


def test_free_u_scales_half_of_the_backbone_and_the_mean_of_the_skip():
    hook = patches.free_u({4: (2.0, 0.5)})
    h, skip = torch.ones(1, 4, 4, 4), torch.ones(1, 2, 4, 4)
    made, smooth = hook(h, skip, {})
    assert made[0, :, 0, 0].tolist() == [2, 2, 1, 1]
    assert torch.allclose(smooth, torch.full_like(skip, 0.5))
    assert h.sum() == h.numel()


def test_free_u_leaves_other_widths_alone():
    h, skip = torch.ones(1, 6, 4, 4), torch.ones(1, 2, 4, 4)
    assert patches.free_u({4: (2.0, 0.5)})(h, skip, {}) == (h, skip)


def test_adaptive_free_u_scales_most_where_the_mean_is_largest():
    h = torch.zeros(1, 2, 1, 3)
    h[0, :, 0] = torch.tensor([1.0, 2.0, 3.0])
    made, _ = patches.free_u({2: (2.0, 1.0)}, adaptive=True)(h, torch.zeros(1, 1, 1, 3), {})
    assert made[0, 0, 0].tolist() == [1 * 1.0, 2 * 1.5, 3 * 2.0]
    assert torch.equal(made[0, 1], h[0, 1])


def test_adaptive_free_u_leaves_an_even_map_alone():
    made, _ = patches.free_u({2: (2.0, 1.0)}, adaptive=True)(torch.ones(1, 2, 2, 2), torch.zeros(1, 1, 2, 2), {})
    assert torch.equal(made, torch.ones(1, 2, 2, 2))


def test_the_highest_frequency_is_not_low():
    checks = ((-1.0) ** ramp(8)).view(1, 1, 1, 8) * ((-1.0) ** ramp(8)).view(1, 1, 8, 1)
    assert torch.allclose(patches.scaled_low_frequencies(checks, 0.0), checks, atol=1e-5)


def test_a_block_shrinks_between_its_noise_levels_only():
    shrink = patches.DeepShrink(3, 2.0, 5.0, 1.0, "area", "area")
    h = torch.ones(1, 2, 9, 8)
    here = {"block": ("input", 3), "sigmas": torch.tensor([5.0])}
    assert shrink.shrink(h, here).shape == (1, 2, 4, 4)
    assert shrink.shrink(h, {**here, "sigmas": torch.tensor([5.1])}) is h
    assert shrink.shrink(h, {**here, "block": ("input", 2)}) is h
    small = torch.ones(1, 2, 4, 4)
    assert shrink.grow(small, h, {})[0].shape == h.shape
    assert shrink.grow(h, h, {})[0] is h


@pytest.mark.parametrize("size", [(4, 8), (8, 4), (8, 8)])
def test_tiles_are_put_back_where_they_were(size):
    height, width = size
    tiles = patches.HyperTile(4, 1, 0, False)
    x = ramp(2, height * width, 3)
    q, k, v = tiles.split(x, x, x, options(height, width))
    count = height * width // 16
    assert q.shape == k.shape == v.shape == (2 * count, 16, 3)
    assert torch.equal(tiles.join(q, {}), x)


def test_a_tile_is_a_square_of_a_square_picture():
    tiles = patches.HyperTile(2, 1, 0, False)
    q, _, _ = tiles.split(*[ramp(1, 16, 1)] * 3, options(4, 4))
    assert q[0].flatten().tolist() == [0, 1, 4, 5]


def test_other_levels_and_single_tiles_are_not_tiled():
    x = ramp(1, 16, 1)
    assert patches.HyperTile(2, 1, 0, False).split(x, x, x, options(8, 8))[0] is x
    assert patches.HyperTile(4, 1, 0, False).split(x, x, x, options(4, 4))[0] is x
    assert len(patches.HyperTile(2, 1, 1, False).split(x, x, x, options(8, 8))[0]) == 4


def test_merged_tokens_are_averages_and_come_back_to_all_they_are_made_of():
    x = torch.zeros(1, 16, 3)
    x[0, :8, 0] = 1.0  # two kinds of tokens, at right angles
    x[0, 8:, 1] = 1.0
    merged, unmerge = patches.merge_tokens(x, (4, 4), 12, torch.Generator().manual_seed(0))
    assert merged.shape == (1, 4, 3)
    assert torch.allclose(unmerge(merged), x)


def test_merging_nothing_only_reorders():
    x = ramp(1, 16, 2) + 1
    merged, unmerge = patches.merge_tokens(x, (4, 4), 1, torch.Generator().manual_seed(0))
    assert merged.shape == (1, 15, 2)
    back = unmerge(merged)
    assert (back == x).all(-1).sum() >= 14


def test_odd_sides_keep_their_last_row_and_column():
    x = ramp(2, 15, 2) + 1
    merged, unmerge = patches.merge_tokens(x, (5, 3), 3, torch.Generator().manual_seed(0))
    assert merged.shape == (2, 12, 2)
    assert unmerge(merged).shape == x.shape


def test_merging_is_at_full_resolution_and_a_part_of_the_tokens():
    merging = patches.TokenMerging(0.25)
    x = ramp(1, 16, 2) + 1
    q, k, _ = merging.merge(x, x, x, options(4, 4))
    assert (q.shape[1], k.shape[1]) == (12, 16)
    assert merging.restore(q, {}).shape == x.shape
    assert merging.merge(x, x, x, options(8, 8))[0] is x
    assert merging.restore(x, {}) is x
