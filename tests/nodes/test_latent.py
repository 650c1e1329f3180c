import pytest
import torch

from limner.nodes import latent
from limner.nodes.resize import resize
from tests.nodes.make import ramp


def of(*shape, **more):
    return {"samples": ramp(*shape), **more}


def test_an_empty_latent_is_eight_times_smaller():
    samples = latent.empty_latent(136, 65, 2)["samples"]
    assert samples.shape == (2, 4, 8, 17)
    assert not samples.any()


@pytest.mark.parametrize(
    ("width", "height", "cells"),
    [
        (512, 256, (32, 64)),
        (8, 8, (8, 8)),  # never under 64 pixels
        (128, 0, (8, 16)),  # 12×24 cells: 128 wide is 64 high
        (0, 96, (12, 24)),
        (0, 8, (8, 16)),
        (100, 0, (8, 12)),  # 100 × 12 / 24 = 50, at least 64
    ],
)
def test_upscaling_to_a_size_in_pixels(width, height, cells):
    made = latent.upscale(of(1, 4, 12, 24, batch_index=[3]), "bilinear", width, height, crop="disabled")
    assert made["samples"].shape[2:] == cells
    assert made["batch_index"] == [3]


def test_upscaling_to_nothing_changes_nothing():
    given = of(1, 4, 2, 2)
    assert latent.upscale(given, "bilinear", 0, 0, crop="center") is given


def test_upscaling_by_a_factor_rounds_half_to_even():
    assert latent.upscale_by(of(1, 4, 5, 7), "area", 0.5)["samples"].shape[2:] == (2, 4)


def test_a_composite_fades_only_at_inner_edges():
    under, over = {"samples": torch.zeros(1, 1, 6, 6)}, {"samples": torch.ones(1, 1, 4, 4)}
    made = latent.composite_latents(under, over, x=16, y=0, feather=16)["samples"][0, 0]
    # two cells from the left, at the top and reaching the right border: only left and bottom fade
    assert made[:, :2].abs().sum() == 0
    assert made[0].tolist() == [0, 0, 0.5, 1, 1, 1]
    assert made[:, 5].tolist() == [1, 1, 1, 0.5, 0, 0]
    assert made[3, 2] == 0.25


def test_a_composite_is_cut_to_fit_and_leaves_its_inputs_alone():
    under, over = {"samples": torch.zeros(1, 1, 4, 4)}, {"samples": torch.ones(1, 1, 4, 4)}
    made = latent.composite_latents(under, over, x=24, y=24)["samples"]
    assert made.sum() == 1
    assert not under["samples"].any()


def test_a_masked_composite_repeats_source_and_mask_to_the_batch():
    under, over = {"samples": torch.zeros(2, 1, 4, 4)}, {"samples": torch.ones(1, 1, 2, 2)}
    mask = torch.tensor([[[1.0, 0.0], [0.5, 1.0]]])
    made = latent.composite_masked(under, over, x=8, y=16, mask=mask)["samples"]
    assert made[1, 0, 2:, 1:3].tolist() == [[1, 0], [0.5, 1]]
    assert made[0].sum() == 2.5


def test_a_masked_composite_resizes_the_source_when_asked():
    under, over = {"samples": torch.zeros(1, 1, 4, 4)}, {"samples": torch.ones(1, 1, 2, 2)}
    assert latent.composite_masked(under, over, resize_source=True)["samples"].sum() == 16


@pytest.mark.parametrize(
    ("start", "length", "kept", "indices"), [(1, 1, [1], [1]), (9, 4, [2], [2]), (1, 9, [1, 2], [1, 2])]
)
def test_latents_are_taken_from_a_batch(start, length, kept, indices):
    mask = ramp(2, 1, 1, 1)
    made = latent.from_batch(of(3, 1, 1, 1, noise_mask=mask), start, length)
    assert made["samples"].flatten().tolist() == kept
    assert made["batch_index"] == indices
    assert made["noise_mask"].flatten().tolist() == [[0, 1, 0][k] for k in kept]


def test_taken_latents_keep_known_indices_and_single_masks():
    mask = torch.ones(1, 1, 2, 2)
    made = latent.from_batch(of(3, 1, 1, 1, noise_mask=mask, batch_index=[5, 6, 7]), 1, 2)
    assert made["batch_index"] == [6, 7]
    assert made["noise_mask"] is mask


def test_repeating_a_batch_gives_new_indices():
    made = latent.repeat(of(2, 1, 1, 1, noise_mask=ramp(2, 1, 1, 1), batch_index=[4, 6]), 3)
    assert made["samples"].flatten().tolist() == [0, 1] * 3
    assert made["noise_mask"].flatten().tolist() == [0, 1] * 3
    assert made["batch_index"] == [4, 6, 7, 9, 10, 12]


def test_repeating_a_plain_batch_gives_no_indices():
    made = latent.repeat(of(2, 1, 1, 1, noise_mask=torch.ones(1, 1, 1, 1)), 2)
    assert "batch_index" not in made
    assert made["noise_mask"].shape[0] == 1


def test_batching_resizes_the_second_and_repeats_indices():
    first, second = of(1, 4, 4, 4, noise_mask="kept"), of(2, 4, 2, 4, batch_index=[7, 8])
    made = latent.batch(first, second)
    expected = resize(second["samples"], 4, 4, "bilinear", "center")
    assert torch.equal(made["samples"][1:], expected)
    assert made["batch_index"] == [0, 7, 8]
    assert made["noise_mask"] == "kept"


def test_seed_behaviour_fixes_or_frees_the_noise():
    assert latent.batch_seed_behavior(of(3, 1, 1, 1), "fixed")["batch_index"] == [0, 0, 0]
    assert latent.batch_seed_behavior(of(2, 1, 1, 1, batch_index=[5, 9]), "fixed")["batch_index"] == [5, 5]
    assert "batch_index" not in latent.batch_seed_behavior(of(2, 1, 1, 1, batch_index=[5, 9]), "random")


def test_arithmetic_repeats_the_second_to_the_first():
    two, one = of(2, 1, 1, 2), {"samples": torch.tensor([10.0, 20.0]).view(1, 1, 1, 2)}
    assert latent.add(two, one)["samples"].flatten().tolist() == [10, 21, 12, 23]
    assert latent.subtract(two, one)["samples"].flatten().tolist() == [-10, -19, -8, -17]
    assert latent.multiply(one, -0.5)["samples"].flatten().tolist() == [-5, -10]


def test_blending_weighs_the_first():
    one, other = {"samples": torch.ones(1, 1, 1, 1)}, {"samples": torch.zeros(1, 1, 1, 1)}
    assert latent.blend(one, other, 0.75)["samples"].item() == 0.75


def test_interpolation_mixes_directions_and_lengths_apart():
    one = {"samples": torch.tensor([2.0, 0.0]).view(1, 2, 1, 1)}
    other = {"samples": torch.tensor([0.0, 4.0]).view(1, 2, 1, 1)}
    made = latent.interpolate(one, other, 0.5)["samples"].flatten()
    assert torch.allclose(made, torch.full((2,), 3 / 2**0.5))


def test_interpolation_of_nothing_is_nothing():
    zero = {"samples": torch.zeros(1, 4, 1, 1)}
    assert not latent.interpolate(zero, zero, 0.3)["samples"].any()


@pytest.mark.parametrize(("dim", "expected"), [("x", [0, 1, 5, 6]), ("-x", [5, 6, 0, 1])])
def test_concatenation_puts_the_second_first_with_a_minus(dim, expected):
    one, other = of(1, 1, 1, 2), {"samples": ramp(1, 1, 1, 2) + 5}
    assert latent.concat(one, other, dim)["samples"].flatten().tolist() == expected


@pytest.mark.parametrize(
    ("index", "amount", "expected"),
    [(1, 2, [1, 2]), (9, 2, [3]), (-2, 1, [2]), (-9, 9, [0, 1, 2, 3]), (-1, 5, [3])],
)
def test_cutting_stays_inside(index, amount, expected):
    assert latent.cut(of(1, 1, 1, 4), "x", index, amount)["samples"].flatten().tolist() == expected


def test_cropping_is_in_pixels_and_may_come_out_short():
    whole = of(1, 1, 16, 16)
    assert latent.crop(whole, 64, 64, 16, 8)["samples"].shape == (1, 1, 8, 8)
    assert latent.crop(whole, 128, 64, 800, 0)["samples"].flatten()[:8].tolist() == [8, 9, 10, 11, 12, 13, 14, 15]


@pytest.mark.parametrize(
    ("rotation", "expected"),
    [
        ("none", [0, 1, 2, 3]),
        ("90 degrees", [2, 0, 3, 1]),
        ("180 degrees", [3, 2, 1, 0]),
        ("270 degrees", [1, 3, 0, 2]),
    ],
)
def test_latents_turn_clockwise(rotation, expected):
    assert latent.rotate(of(1, 1, 2, 2), rotation)["samples"].flatten().tolist() == expected


@pytest.mark.parametrize(
    ("method", "expected"), [("x-axis: vertically", [2, 3, 0, 1]), ("y-axis: horizontally", [1, 0, 3, 2])]
)
def test_latents_are_mirrored(method, expected):
    assert latent.flip(of(1, 1, 2, 2), method)["samples"].flatten().tolist() == expected
