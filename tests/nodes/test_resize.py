import numpy as np
import pytest
import torch
from PIL import Image as Picture

from limner.errors import BadInput
from limner.nodes.resize import bislerp, lanczos, repeat_to_batch, resize, resize_image
from tests.nodes.make import ramp


def test_nearest_exact_takes_the_middle_of_each_cell():
    assert resize(ramp(1, 1, 1, 5), 2, 1, "nearest-exact").tolist() == [[[[1.0, 3.0]]]]


def test_area_takes_means():
    assert resize(ramp(1, 1, 2, 4), 2, 1, "area").tolist() == [[[[2.5, 4.5]]]]


def test_bicubic_is_not_clamped():
    step = torch.tensor([[[[0.0, 0.0, 1.0, 1.0]]]])
    assert resize(step, 8, 1, "bicubic").max() > 1


@pytest.mark.parametrize(
    ("size", "kept"),
    [
        ((4, 4), slice(2, 6)),  # 8×4 to a square: two columns off each side
        ((8, 4), slice(0, 8)),
        ((6, 4), slice(1, 7)),
        ((5, 4), slice(2, 6)),  # (8 - 5) / 2 = 1.5 rounds to the even 2
        ((7, 4), slice(0, 8)),  # 0.5 rounds to 0
    ],
)
def test_centre_crop_cuts_the_longer_side_before_resizing(size, kept):
    x = ramp(1, 1, 4, 8)
    assert torch.equal(resize(x, *size, "nearest-exact", "center"), resize(x[..., kept], *size, "nearest-exact"))


def test_centre_crop_cuts_rows_of_tall_pictures():
    x = ramp(1, 1, 8, 4)
    assert torch.equal(resize(x, 4, 4, "bilinear", "center"), x[:, :, 2:6])


def test_frames_are_resized_one_by_one():
    x = torch.rand(2, 4, 3, 6, 8)
    expected = torch.stack([resize(x[:, :, t], 4, 5, "bilinear") for t in range(3)], 2)
    assert torch.equal(resize(x, 4, 5, "bilinear"), expected)


def test_images_keep_their_channels_last():
    assert resize_image(torch.rand(2, 6, 8, 3), 4, 3, "area").shape == (2, 3, 4, 3)


def test_lanczos_works_in_8_bits_without_rounding():
    x = torch.rand(1, 3, 9, 9, generator=torch.manual_seed(0)) * 1.2 - 0.1
    bytes_ = np.clip(255.0 * x[0].permute(1, 2, 0).numpy(), 0, 255).astype(np.uint8)
    expected = np.asarray(Picture.fromarray(bytes_).resize((5, 4), Picture.Resampling.LANCZOS))
    assert np.array_equal((lanczos(x, 5, 4)[0].permute(1, 2, 0).numpy() * 255).round(), expected)


def test_lanczos_refuses_one_channel():
    with pytest.raises(BadInput, match="1 channels"):
        lanczos(torch.rand(1, 1, 4, 4), 2, 2)


def slerp(a, b, r):
    """By hand, for vectors that are neither equal nor opposite."""
    na, nb = a.norm(), b.norm()
    w = torch.acos((a / na) @ (b / nb))
    unit = torch.sin((1 - r) * w) / torch.sin(w) * (a / na) + torch.sin(r * w) / torch.sin(w) * (b / nb)
    return unit * (na * (1 - r) + nb * r)


def test_bislerp_turns_between_neighbours():
    a, b = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 1.0])
    row = torch.stack((a, b), -1)[None, :, None]  # (1, 3, 1, 2)
    # 2 → 4: places 0, .25, .75 and 1 of the ramp 0, 1; the second neighbour of the last is itself
    wide = bislerp(row, 4, 1)[0, :, 0]
    for column, expected in enumerate((a, slerp(a, b, 0.25), slerp(a, b, 0.75), b)):
        assert torch.allclose(wide[:, column], expected, atol=1e-6)


def test_bislerp_keeps_the_first_of_nearly_equal_vectors():
    row = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2).expand(1, 4, 1, 2)  # same direction, other lengths
    assert bislerp(row, 4, 1)[0, 0, 0].tolist() == [1.0, 1.0, 1.0, 3.0]


def test_bislerp_goes_straight_between_opposite_vectors():
    row = torch.tensor([1.0, -1.0]).view(1, 1, 1, 2).expand(1, 4, 1, 2)
    assert torch.allclose(bislerp(row, 4, 1)[0, 0, 0], torch.tensor([1.0, 0.5, -0.5, -1.0]))


def test_bislerp_of_zero_vectors_is_zero():
    assert not bislerp(torch.zeros(1, 4, 2, 2), 5, 3).any()


def test_a_batch_is_repeated_as_a_whole_and_cut():
    assert repeat_to_batch(ramp(3, 1), 5)[:, 0].tolist() == [0, 1, 2, 0, 1]
    assert repeat_to_batch(ramp(3, 1), 2)[:, 0].tolist() == [0, 1]
