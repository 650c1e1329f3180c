"""Canny's lines: thin, where the gradient is greatest, joined by their strong parts."""

import pytest
import torch

from limner.errors import BadInput
from limner.nodes.edges import canny


def lines(picture, low=0.4, high=0.8):
    return canny(picture, low, high)[0, ..., 0]


def step(height=12, width=12, at=6, top=1.0):
    picture = torch.zeros(1, height, width, 3)
    picture[:, :, at:] = top
    return picture


def test_a_step_gives_a_straight_line_on_the_step():
    # the two columns beside a step are equally steep, and neither is greater than the other: blur it off centre
    picture = step()
    picture[:, :, 6] = 0.6
    made = lines(picture)
    assert made[:, 6].tolist() == [1.0] * 12
    assert made.sum() == 12


def test_the_line_is_white_in_three_channels_and_batches_keep_apart():
    picture = torch.cat((step(), torch.zeros(1, 12, 12, 3)))
    picture[0, :, 6] = 0.6
    made = canny(picture)
    assert made.shape == (2, 12, 12, 3)
    assert set(made[0].unique().tolist()) == {0.0, 1.0}
    assert made[1].sum() == 0


def test_a_slanted_edge_is_found_along_its_slant():
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    picture = (rows + columns > 24).float()[None, ..., None].expand(-1, -1, -1, 3)
    made = lines(picture)
    found = made.nonzero()
    assert len(found) >= 16
    assert ((found.sum(1) - 24).abs() <= 1).all()


def test_a_weak_line_stays_only_where_it_meets_a_strong_one():
    picture = torch.zeros(1, 32, 12, 3)
    strength = torch.where(torch.arange(32) < 16, 0.5, 0.2).view(32, 1, 1)
    picture[0, :, 6:] = strength
    picture[0, :, 6] = strength[:, 0] * 0.6
    joined = lines(picture)
    assert joined[:, 6].sum() >= 30
    alone = lines(picture[:, 20:])
    assert alone.sum() == 0


def test_faint_changes_are_no_lines():
    assert lines(step(top=0.05)).sum() == 0


def test_a_picture_too_small_or_without_colours_is_refused():
    with pytest.raises(BadInput, match="3 pixels"):
        canny(torch.zeros(1, 2, 9, 3))
    with pytest.raises(BadInput, match="colours"):
        canny(torch.zeros(1, 9, 9, 1))
