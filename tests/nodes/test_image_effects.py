"""Blends, blurs and few colours, against formulas written out here."""

import math

import numpy as np
import pytest
import torch

from limner.errors import BadInput
from limner.nodes import image_effects


def flat(*values):
    """A picture of one row, grey."""
    return torch.tensor(values).view(1, 1, -1, 1).expand(-1, -1, -1, 3).clone()


def soft(a, b):
    if b <= 0.5:
        return a - (1 - 2 * b) * a * (1 - a)
    lit = ((16 * a - 12) * a + 4) * a if a <= 0.25 else math.sqrt(a)
    return a + (2 * b - 1) * (lit - a)


BLENDS = {
    "normal": lambda _, b: b,
    "multiply": lambda a, b: a * b,
    "screen": lambda a, b: a + b - a * b,
    "overlay": lambda a, b: 2 * a * b if a <= 0.5 else 2 * (a + b - a * b) - 1,
    "soft_light": soft,
    "difference": lambda a, b: a - b,
}


@pytest.mark.parametrize("mode", BLENDS)
@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0])
def test_a_blend_follows_its_formula(mode, factor):
    pairs = [(a, b) for a in (0.0, 0.2, 0.5, 0.7, 1.0) for b in (0.0, 0.3, 0.5, 0.9, 1.0)]
    made = image_effects.blend(flat(*[a for a, _ in pairs]), flat(*[b for _, b in pairs]), factor, blend_mode=mode)
    expected = [min(1, max(0, a * (1 - factor) + BLENDS[mode](a, b) * factor)) for a, b in pairs]
    assert made[0, 0, :, 1].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_blend_takes_size_and_channels_of_the_first():
    made = image_effects.blend(torch.zeros(1, 4, 6, 4), torch.full((1, 9, 9, 3), 0.5), 1.0, blend_mode="normal")
    assert made.shape == (1, 4, 6, 4)
    assert torch.allclose(made[..., :3], torch.tensor(0.5))
    assert torch.allclose(made[..., 3], torch.tensor(1.0))


def test_the_sigma_of_a_blur_is_relative_to_its_radius():
    kernel = image_effects.gaussian(5, 0.5)
    assert kernel.sum().item() == pytest.approx(1)
    # from the middle to the edge is 1, whatever the radius
    assert (kernel[2, 4] / kernel[2, 2]).item() == pytest.approx(math.exp(-1 / (2 * 0.25)))
    assert (kernel[0, 0] / kernel[2, 2]).item() == pytest.approx(math.exp(-2 / (2 * 0.25)))


def test_a_blurred_point_is_the_kernel_in_alpha_too():
    point = torch.zeros(1, 7, 7, 4)
    point[0, 3, 3] = 1
    made = image_effects.blur(point, 2, 1.0)
    assert torch.allclose(made[0, 1:6, 1:6, 3], image_effects.gaussian(5, 1.0))
    assert made.sum().item() == pytest.approx(4, abs=1e-5)


def test_a_blur_mirrors_at_the_edge_without_repeating_it():
    row = torch.zeros(1, 3, 3, 1)
    row[:, :, 1] = 1
    kernel = image_effects.gaussian(3, 1.0)
    # at the left edge the mirror shows the second column on both sides
    assert image_effects.blur(row, 1, 1.0)[0, 1, 0, 0].item() == pytest.approx(2 * kernel[:, 0].sum().item(), abs=1e-6)


def test_sharpening_leaves_flat_parts_and_lifts_edges():
    assert torch.allclose(
        image_effects.sharpen(flat(0.3, 0.3, 0.3).expand(-1, 3, -1, -1)), torch.tensor(0.3), atol=1e-5
    )
    step = flat(0.4, 0.4, 0.6, 0.6).expand(-1, 4, -1, -1)
    alpha, kernel = 0.02, image_effects.gaussian(3, 1.0)
    side = kernel[:, 0].sum().item()
    made = image_effects.sharpen(step, 1, 1.0, alpha)[0, 1, :, 0]
    # 1 + 10α of itself, less 10α of the blur
    assert made[1].item() == pytest.approx(
        0.4 * (1 + 10 * alpha) - 10 * alpha * (0.4 * (1 - side) + 0.6 * side), abs=1e-6
    )


def test_few_colours_are_few_and_near():
    picture = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    for dither in ("none", "floyd-steinberg", "bayer-4"):
        made = image_effects.quantize(picture, 8, dither=dither)
        colours = (made * 255).round().reshape(-1, 3).unique(dim=0)
        assert len(colours) <= 8
        assert (made.mean() - picture.mean()).abs() < 0.05


def test_without_dither_each_pixel_takes_the_nearest_colour():
    picture = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(1))
    made = image_effects.quantize(picture, 4, dither="none")[0]
    colours = made.reshape(-1, 3).unique(dim=0)
    exact = (picture[0] * 255).floor() / 255
    distances = torch.cdist(exact.reshape(-1, 3), colours)
    taken = (exact - made).reshape(-1, 3).norm(dim=-1)
    assert (taken - distances.min(1).values).max() < 0.03  # Pillow looks colours up in a coarse cache


def test_an_ordered_pattern_has_every_threshold_once():
    for side in (2, 4, 8, 16):
        pattern = np.sort(image_effects.bayer(side).ravel())
        assert np.allclose(np.diff(pattern), 1 / side**2)
        assert np.allclose(pattern.mean(), 0)
    assert np.allclose(image_effects.bayer(2) * 4, [[-1.5, 0.5], [1.5, -0.5]])


def test_noise_is_of_its_seed_and_clipped():
    picture = torch.full((1, 4, 4, 3), 0.5)
    noise = torch.randn((1, 4, 4, 3), generator=torch.Generator().manual_seed(7))
    assert torch.allclose(image_effects.add_noise(picture, 7, 0.3), (0.5 + 0.3 * noise).clamp(0, 1))


def test_a_radius_beyond_the_picture_is_refused():
    with pytest.raises(BadInput, match="radius of 4"):
        image_effects.blur(torch.zeros(1, 4, 9, 3), 4, 1.0)
