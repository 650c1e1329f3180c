"""Erosion, dilation and what is made of them, held against loops over windows."""

import pytest
import torch

from limner.nodes import morphology
from tests.nodes.make import ramp


def windows(image, size, pick):
    """Each pixel: `pick` of the square that begins size // 2 before it."""
    _, height, width, _ = image.shape
    made = torch.empty_like(image)
    for y in range(height):
        for x in range(width):
            top, left = y - size // 2, x - size // 2
            part = image[:, max(0, top) : top + size, max(0, left) : left + size]
            made[:, y, x] = pick(part)
    return made


def smallest(part):
    return part.amin((1, 2))


def largest(part):
    return part.amax((1, 2))


@pytest.mark.parametrize("size", [3, 4, 5, 7, 30])
def test_erosion_and_dilation_look_at_a_square(size):
    picture = torch.rand(2, 9, 11, 3, generator=torch.Generator().manual_seed(size))
    assert torch.equal(morphology.morphology(picture, "erode", size), windows(picture, size, smallest))
    assert torch.equal(morphology.morphology(picture, "dilate", size), windows(picture, size, largest))


def test_the_others_are_made_of_the_two():
    picture = torch.rand(1, 9, 9, 3, generator=torch.Generator().manual_seed(0))
    eroded, dilated = windows(picture, 3, smallest), windows(picture, 3, largest)
    opened, closed = windows(eroded, 3, largest), windows(dilated, 3, smallest)
    expected = {
        "open": opened,
        "close": closed,
        "gradient": dilated - eroded,
        "top_hat": picture - opened,
        "bottom_hat": closed - picture,
    }
    for operation, truth in expected.items():
        assert torch.allclose(morphology.morphology(picture, operation, 3), truth), operation


def test_brightness_and_colour_of_the_primaries():
    primaries = torch.eye(3).view(1, 1, 3, 3)
    y, u, v = morphology.to_yuv(primaries)
    assert y[0, 0, :, 0].tolist() == pytest.approx([0.299, 0.587, 0.114])
    assert u[0, 0, :, 1].tolist() == pytest.approx(
        [0.5 + 0.564 * (b - y) for b, y in ((0, 0.299), (0, 0.587), (1, 0.114))]
    )
    assert v[0, 0, :, 2].tolist() == pytest.approx(
        [0.5 + 0.713 * (r - y) for r, y in ((1, 0.299), (0, 0.587), (0, 0.114))]
    )


def test_there_and_back_is_the_picture():
    picture = ramp(1, 4, 4, 3) / 48
    assert torch.allclose(morphology.from_yuv(*morphology.to_yuv(picture)), picture, atol=2e-3)
