import pytest
import torch

from limner.nodes import image
from limner.nodes.resize import resize_image
from tests.nodes.make import ramp


def test_an_empty_image_has_the_bytes_of_its_colour():
    made = image.empty(2, 3, 1, 0xFF8000)
    assert made.shape == (1, 3, 2, 3)
    assert torch.allclose(made[0, 0, 0] * 255, torch.tensor([255.0, 128.0, 0.0]))


@pytest.mark.parametrize(
    ("width", "height", "size"), [(4, 5, (5, 4)), (0, 3, (3, 6)), (3, 0, (2, 3)), (0, 0, (4, 8)), (1, 0, (1, 1))]
)
def test_a_side_of_zero_follows_the_other(width, height, size):
    made = image.scale(torch.rand(1, 4, 8, 3), "bilinear", width, height, crop="disabled")
    assert made.shape[1:3] == size


def test_scaling_by_a_factor_rounds_half_to_even():
    assert image.scale_by(torch.rand(1, 5, 7, 3), "area", 0.5).shape[1:3] == (2, 4)


def test_scaling_to_a_number_of_pixels_keeps_the_shape():
    # sqrt(trunc(0.01 · 1024²) / (50 · 200)) = 1.02396
    assert image.scale_to_total_pixels(torch.rand(1, 50, 200, 3), "area", 0.01).shape[1:3] == (51, 205)


def test_inversion_takes_alpha_too():
    assert image.invert(torch.full((1, 1, 1, 4), 0.25)).flatten().tolist() == [0.75] * 4


def test_batching_adds_alpha_and_resizes_the_second():
    first, second = torch.rand(1, 4, 4, 4), torch.rand(1, 2, 4, 3)
    made = image.batch(first, second)
    assert torch.allclose(made[1, ..., 3], torch.ones(4, 4))
    assert torch.equal(made[1:, ..., :3], resize_image(second, 4, 4, "bilinear", "center"))


def test_pictures_are_taken_from_a_batch_and_repeated():
    batch = ramp(3, 1, 1, 1)
    assert image.from_batch(batch, 9, 9).flatten().tolist() == [2]
    assert image.from_batch(batch, 1, 2).flatten().tolist() == [1, 2]
    assert image.repeat(batch[:2], 2).flatten().tolist() == [0, 1, 0, 1]


def test_cropping_stays_on_the_picture():
    whole = ramp(1, 3, 4, 1)
    assert image.crop(whole, 2, 2, 1, 1).flatten().tolist() == [5, 6, 9, 10]
    assert image.crop(whole, 5, 5, 99, 99).flatten().tolist() == [11]


def test_pictures_turn_clockwise_and_are_mirrored():
    whole = ramp(1, 2, 2, 1)
    assert image.rotate(whole, "90 degrees").flatten().tolist() == [2, 0, 3, 1]
    assert image.flip(whole, "x-axis: vertically").flatten().tolist() == [2, 3, 0, 1]
    assert image.flip(whole, "y-axis: horizontally").flatten().tolist() == [1, 0, 3, 2]


def test_a_composite_is_cut_at_the_border_and_weighted_by_the_mask():
    under, over = torch.zeros(1, 3, 3, 3), torch.ones(1, 2, 2, 4)
    mask = torch.tensor([[[0.5, 1.0], [1.0, 1.0]]])
    made = image.composite_masked(under, over, 2, 1, mask=mask)
    assert made[0, ..., 0].tolist() == [[0, 0, 0], [0, 0, 0.5], [0, 0, 1]]


def test_a_source_without_alpha_is_opaque():
    made = image.composite_masked(torch.zeros(1, 1, 1, 4), torch.full((1, 1, 1, 3), 0.5))
    assert made.flatten().tolist() == [0.5, 0.5, 0.5, 1]
