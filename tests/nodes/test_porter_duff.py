"""Compositing rules: the algebra of Porter and Duff, and what each blend mode means where both layers are opaque."""

import pytest
import torch

from limner.nodes import porter_duff as rules

S, D, A, B = 0.8, 0.3, 0.6, 0.5  # colours and alphas of source and destination

# alpha and premultiplied colour, worked out by hand from S·A = 0.48 and D·B = 0.15
TRUTHS = {
    "ADD": (1.0, 0.63),
    "CLEAR": (0.0, 0.0),
    "DARKEN": (0.8, 0.5 * 0.48 + 0.4 * 0.15 + 0.15),
    "DST": (0.5, 0.15),
    "DST_ATOP": (0.6, 0.6 * 0.15 + 0.5 * 0.48),
    "DST_IN": (0.3, 0.6 * 0.15),
    "DST_OUT": (0.2, 0.4 * 0.15),
    "DST_OVER": (0.8, 0.15 + 0.5 * 0.48),
    "LIGHTEN": (0.8, 0.5 * 0.48 + 0.4 * 0.15 + 0.48),
    "MULTIPLY": (0.3, 0.48 * 0.15),
    "OVERLAY": (0.8, 2 * 0.48 * 0.15),
    "SCREEN": (0.8, 0.48 + 0.15 - 0.48 * 0.15),
    "SRC": (0.6, 0.48),
    "SRC_ATOP": (0.5, 0.5 * 0.48 + 0.4 * 0.15),
    "SRC_IN": (0.3, 0.5 * 0.48),
    "SRC_OUT": (0.3, 0.5 * 0.48),
    "SRC_OVER": (0.8, 0.48 + 0.4 * 0.15),
    "XOR": (0.5, 0.5 * 0.48 + 0.4 * 0.15),
}


def picture(value, *size):
    return torch.full((1, *(size or (2, 2)), 3), value)


def mask(alpha, *size):
    """Masks are 1 where transparent."""
    return torch.full((1, *(size or (2, 2))), 1 - alpha)


@pytest.mark.parametrize("mode", rules.MODES)
def test_a_rule_gives_its_alpha_and_colour(mode):
    image, transparent = rules.porter_duff(picture(S), mask(A), picture(D), mask(B), mode)
    alpha, colour = TRUTHS[mode]
    assert transparent.flatten().tolist() == pytest.approx([1 - alpha] * 4, abs=1e-6)
    assert image.flatten().tolist() == pytest.approx([min(1, colour / alpha) if alpha else 0] * 12, abs=1e-5)


def test_an_overlay_on_a_bright_ground_brightens():
    image, _ = rules.porter_duff(picture(S), mask(1.0), picture(0.9), mask(1.0), "OVERLAY")
    assert image[0, 0, 0, 0].item() == pytest.approx(1 - 2 * (1 - 0.9) * (1 - S))


def test_the_result_has_the_size_of_the_destination_and_the_shortest_batch():
    image, transparent = rules.porter_duff(
        picture(S, 8, 8).expand(3, -1, -1, -1),
        mask(A, 4, 4),
        picture(D, 2, 6).expand(2, -1, -1, -1),
        mask(B, 2, 6),
        "SRC",
    )
    assert image.shape == (1, 2, 6, 3)
    assert transparent.shape == (1, 2, 6)
    assert torch.allclose(image, torch.tensor(S))


def test_alpha_is_split_off_as_its_opposite_and_joined_again():
    whole = torch.rand(1, 3, 4, 4)
    image, transparent = rules.split_alpha(whole)
    assert torch.equal(transparent, 1 - whole[..., 3])
    assert torch.allclose(rules.join_alpha(image, transparent), whole)
    assert rules.split_alpha(whole[..., :3])[1].sum() == 0


def test_joining_takes_the_shorter_batch_and_resizes_the_mask():
    made = rules.join_alpha(torch.zeros(3, 4, 4, 3), mask(0.25, 2, 2).expand(2, -1, -1))
    assert made.shape == (2, 4, 4, 4)
    assert torch.allclose(made[..., 3], torch.tensor(0.25))
