import pytest
import torch

from limner.errors import BadInput
from limner.nodes import mask
from tests.nodes.make import ramp


def test_a_solid_mask_is_one_frame():
    made = mask.solid(0.25, 3, 2)
    assert made.shape == (1, 2, 3)
    assert made.unique().tolist() == [0.25]


def test_inversion_and_threshold():
    given = torch.tensor([[[0.0, 0.5, 1.0]]])
    assert mask.invert(given).tolist() == [[[1.0, 0.5, 0.0]]]
    assert mask.threshold(given, 0.5).tolist() == [[[0.0, 0.0, 1.0]]]


def test_masks_become_grey_pictures_and_back():
    given = torch.rand(2, 3, 4)
    picture = mask.to_image(given)
    assert picture.shape == (2, 3, 4, 3)
    assert torch.equal(mask.from_image(picture, "green"), given)


def test_a_channel_that_is_not_there_is_refused():
    with pytest.raises(BadInput, match="alpha"):
        mask.from_image(torch.rand(1, 2, 2, 3), "alpha")


def test_cropping_may_come_out_short_or_empty():
    assert mask.crop(ramp(1, 4, 4), 3, 3, 2, 2).tolist() == [[[15.0]]]
    assert mask.crop(ramp(1, 4, 4), 9, 0, 2, 2).shape == (1, 2, 0)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("multiply", [0.6, 0.36, 0.0]),
        ("add", [0.6, 1.0, 0.6]),
        ("subtract", [0.6, 0.0, 0.6]),
        ("and", [0.6, 1.0, 0.0]),
        ("or", [0.6, 1.0, 1.0]),
        ("xor", [0.6, 0.0, 1.0]),
    ],
)
def test_masks_are_combined_inside_the_region_only(operation, expected):
    under = torch.tensor([[[0.6, 0.6, 0.6]]])
    over = torch.tensor([[[0.6, 0.0, 9.0]]])
    made = mask.combine(under, over, x=1, y=0, operation=operation)
    assert torch.allclose(made[0, 0], torch.tensor(expected))


def test_a_combination_is_clamped_everywhere():
    assert mask.combine(torch.full((1, 1, 2), 3.0), torch.zeros(1, 1, 1), operation="add").tolist() == [[[1.0, 1.0]]]


def test_an_offset_outside_is_refused():
    with pytest.raises(BadInput, match="outside"):
        mask.combine(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), x=2, operation="add")


def test_feathering_on_the_left_and_at_the_top():
    made = mask.feather(torch.ones(1, 3, 4), left=2, top=1)
    assert made[0].tolist() == [[0.5, 1, 1, 1]] * 3


def test_feathering_on_the_right_starts_on_the_opposite_edge():
    assert mask.feather(torch.ones(1, 1, 4), right=2)[0, 0].tolist() == [0.5, 1, 1, 1]
    assert mask.feather(torch.ones(1, 1, 4), right=4)[0, 0].tolist() == [0.25, 1, 0.75, 0.5]


def dot():
    made = torch.zeros(1, 5, 5)
    made[0, 2, 2] = 0.5
    return made


def test_growing_is_a_diamond_or_a_square():
    diamond, square = mask.grow(dot(), 2, True), mask.grow(dot(), 2, False)
    assert (diamond > 0).sum() == 13
    assert (square > 0).sum() == 25
    assert diamond.max() == square.min() == 0.5


def test_shrinking_does_not_come_in_from_the_border():
    assert mask.grow(torch.ones(1, 4, 4), -2, False).min() == 1
    hole = torch.ones(1, 5, 5)
    hole[0, 2, 2] = 0
    assert (mask.grow(hole, -1, True) == 0).sum() == 5


def test_a_colour_becomes_a_mask_where_it_matches_exactly():
    picture = torch.tensor([[255, 128, 0], [255, 128, 1], [300, 128, -9]]).view(1, 1, 3, 3) / 255
    assert mask.from_colour(picture, 0xFF8000).tolist() == [[[1.0, 0.0, 1.0]]]
