"""Where pictures lie in their frames."""

import pytest
import torch

from limner.errors import BadInput
from limner.nodes import image_layout
from limner.nodes.resize import resize_image
from tests.nodes.make import ramp, run_in


def test_a_stitch_of_one_picture_is_the_picture():
    picture = ramp(1, 2, 2, 3)
    assert image_layout.stitch(picture) is picture


@pytest.mark.parametrize(
    ("direction", "size", "first"),
    [("right", (4, 12), (0, 0)), ("left", (4, 12), (0, 8)), ("down", (8, 4), (0, 0)), ("up", (8, 4), (4, 0))],
)
def test_a_stitch_matches_the_side_that_touches(direction, size, first):
    one, two = torch.zeros(1, 4, 4, 3), torch.ones(1, 3, 6, 3)
    if direction in ("down", "up"):
        two = torch.ones(1, 6, 6, 3)
    made = image_layout.stitch(one, direction, image2=two)
    assert made.shape[1:3] == size
    assert made[0, first[0], first[1]].tolist() == [0, 0, 0]
    assert made.sum() == (size[0] * size[1] - 16) * 3


def test_unmatched_pictures_lie_in_the_middle_of_the_fill():
    made = image_layout.stitch(torch.zeros(1, 5, 2, 3), match_image_size=False, image2=torch.full((1, 2, 2, 3), 0.5))
    assert made.shape == (1, 5, 4, 3)
    # three rows are missing: one above, two below, white as the spacer
    assert made[0, :, 3, 0].tolist() == [1.0, 0.5, 0.5, 1.0, 1.0]
    red = image_layout.stitch(torch.zeros(1, 4, 2, 3), "right", False, 0, "red", image2=torch.full((1, 2, 2, 3), 0.5))
    assert red[0, :, 2].tolist()[0] == [0.0, 0.0, 0.0]


def test_a_spacer_is_even_and_opaque():
    made = image_layout.stitch(torch.zeros(1, 2, 2, 4), "down", True, 3, "green", image2=torch.zeros(1, 2, 2, 3))
    assert made.shape == (1, 2 + 4 + 2, 2, 4)
    assert made[0, 2:6].reshape(-1, 4).unique(dim=0).tolist() == [[0.0, 1.0, 0.0, 1.0]]
    assert made[0, 6:, :, 3].tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_the_shorter_batch_repeats_its_last_picture():
    one = torch.tensor([0.0, 1.0, 0.2]).view(3, 1, 1, 1).expand(-1, 2, 2, 3)
    made = image_layout.stitch(one, image2=torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(-1, 2, 2, 3))
    assert made[:, 0, -1, 0].tolist() == [0.0, 1.0, 1.0]


def test_padding_keeps_the_shape_in_the_middle():
    made = image_layout.resize_and_pad(
        torch.full((1, 4, 8, 3), 0.5), 12, 12, padding_color="white", interpolation="bilinear"
    )
    assert made.shape == (1, 12, 12, 3)
    assert (made == 0.5).all(-1)[0].sum() == 12 * 6
    assert made[0, 2, 0, 0] == 1
    assert made[0, 3, 0, 0] == 0.5
    black = image_layout.resize_and_pad(torch.ones(1, 5, 3, 3), 7, 7, padding_color="black", interpolation="area")
    # 3 · 7/5 = 4.2 → 4 columns, from column 1
    assert black[0, 0, :, 0].tolist() == [0, 1, 1, 1, 1, 0, 0]


def test_a_size_is_width_height_and_number_and_is_shown_at_the_node(tmp_path):
    run = run_in(tmp_path)
    assert tuple(image_layout.size(run, torch.zeros(3, 4, 5, 3))) == (5, 4, 3)
    assert run.sink.told == [("7", "width: 5, height: 4\n batch size: 3")]


@pytest.mark.parametrize(("shape", "expected"), [((4, 10), (20, 50)), ((10, 4), (50, 20)), ((7, 7), (50, 50))])
def test_the_longer_side_takes_the_size(shape, expected):
    assert image_layout.scale_to_longest(torch.zeros(1, *shape, 3), "area", 50).shape[1:3] == expected


@pytest.mark.parametrize(
    ("shape", "expected"), [((100, 100), (1024, 1024)), ((100, 400), (672, 1568)), ((300, 200), (1248, 832))]
)
def test_kontext_gets_the_nearest_shape(shape, expected):
    picture = torch.rand(1, *shape, 3)
    made = image_layout.scale_for_kontext(picture)
    assert made.shape[1:3] == expected
    assert torch.equal(made, resize_image(picture, expected[1], expected[0], "lanczos", "center"))


def test_batches_are_regrouped_in_order():
    made = image_layout.rebatch([ramp(3, 1, 1, 1), ramp(2, 1, 1, 1) + 10], [2])
    assert [batch.flatten().tolist() for batch in made] == [[0, 1], [2, 10], [11]]


def test_batches_of_several_sizes_are_refused_in_words():
    with pytest.raises(BadInput, match="1×2×3, 4×4×3"):
        image_layout.rebatch([torch.zeros(1, 2, 1, 3), torch.zeros(1, 4, 4, 3)], [2])
    assert len(image_layout.rebatch([torch.zeros(1, 2, 1, 3), torch.zeros(1, 4, 4, 3)], [1])) == 2
