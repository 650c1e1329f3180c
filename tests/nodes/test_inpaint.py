import pytest
import torch

from limner.nodes import inpaint
from limner.nodes.resize import resize_mask
from tests.nodes.make import EighthVAE, ramp

CONDITIONING = [[torch.zeros(1, 2, 3), {"pooled_output": None}]]


def square(top, left, size, height, width):
    made = torch.zeros(1, height, width)
    made[:, top : top + size, left : left + size] = 1
    return made


def test_a_noise_mask_may_have_any_size():
    made = inpaint.set_noise_mask({"samples": torch.zeros(1, 4, 8, 8), "batch_index": [3]}, torch.rand(2, 5, 7))
    assert made["noise_mask"].shape == (2, 1, 5, 7)
    assert made["batch_index"] == [3]


@pytest.mark.parametrize(
    ("grow", "rows", "columns"), [(0, (8, 15), (8, 15)), (3, (7, 16), (7, 16)), (6, (6, 18), (6, 18))]
)
def test_the_mask_grows_by_half_the_kernel(grow, rows, columns):
    vae = EighthVAE()
    made = inpaint.encode_for_inpaint(torch.rand(1, 32, 32, 3), vae, square(8, 8, 8, 32, 32), grow)
    assert made["noise_mask"].shape == (1, 1, 32, 32)
    where = made["noise_mask"][0, 0].nonzero()
    # an even kernel k covers i-k/2 .. i+k/2-1: the square 8..15 grows by k/2-1 up and by k/2 down
    assert (where[:, 0].min().item(), where[:, 0].max().item()) == rows
    assert (where[:, 1].min().item(), where[:, 1].max().item()) == columns


def test_the_masked_part_is_grey_where_the_ungrown_mask_is():
    vae, pixels = EighthVAE(), torch.rand(1, 16, 16, 4)
    inpaint.encode_for_inpaint(pixels, vae, square(0, 0, 8, 16, 16), 6)
    (shown,) = vae.encoded
    assert torch.allclose(shown[0, :8, :8, :3], torch.tensor(0.5))
    assert torch.allclose(shown[0, 8:, :, :3], pixels[0, 8:, :, :3])
    assert torch.equal(shown[..., 3], pixels[..., 3])


def test_odd_sizes_are_cut_about_the_centre_with_their_mask():
    vae, pixels = EighthVAE(), ramp(1, 19, 21, 3) / 2000
    made = inpaint.encode_for_inpaint(pixels, vae, torch.zeros(1, 19, 21), 0)
    assert torch.allclose(vae.encoded[0], pixels[:, 1:17, 2:18])
    assert made["noise_mask"].shape == (1, 1, 16, 16)
    assert made["samples"].shape == (1, 4, 2, 2)


def test_a_mask_of_another_size_is_resized_to_the_picture():
    mask = torch.rand(1, 4, 4)
    made = inpaint.encode_for_inpaint(torch.rand(1, 16, 16, 3), EighthVAE(), mask, 0)
    assert torch.equal(made["noise_mask"], resize_mask(mask, 16, 16).round())


def test_an_inpainting_model_is_shown_a_soft_mask_and_a_grey_hole():
    vae, pixels = EighthVAE(), torch.rand(1, 18, 16, 3)
    mask = torch.rand(1, 18, 16)
    made = inpaint.inpaint_model_conditioning(CONDITIONING, CONDITIONING, vae, pixels, mask)
    soft = mask[:, None, 1:17]
    for conditioning in (made.positive, made.negative):
        assert torch.equal(conditioning[0][1]["concat_mask"], soft)
        assert conditioning[0][1]["concat_latent_image"].shape == (1, 4, 2, 2)
    assert torch.equal(made.latent["noise_mask"], soft)
    hole = soft[0, 0].round().bool()
    assert torch.allclose(vae.encoded[0][0][hole], torch.tensor(0.5))
    assert torch.equal(vae.encoded[1], pixels)  # the autoencoder itself crops
    assert "concat_mask" not in CONDITIONING[0][1]


def test_an_inpainting_model_may_paint_everything():
    made = inpaint.inpaint_model_conditioning(
        CONDITIONING, CONDITIONING, EighthVAE(), torch.rand(1, 8, 8, 3), torch.rand(1, 8, 8), noise_mask=False
    )
    assert set(made.latent) == {"samples"}


def test_an_editing_model_starts_from_nothing():
    pixels = torch.rand(1, 19, 16, 3)
    vae = EighthVAE()
    made = inpaint.instruct_pix_to_pix(CONDITIONING, CONDITIONING, vae, pixels)
    assert torch.equal(vae.encoded[0], pixels[:, 1:17])
    assert not made.latent["samples"].any()
    assert made.positive[0][1]["concat_latent_image"] is made.negative[0][1]["concat_latent_image"]


def mask_by_hand(height, width, left, top, right, bottom, feathering):
    rows = []
    for i in range(height):
        row = []
        for j in range(width):
            distance = min(
                i if top else height,
                height - i if bottom else height,
                j if left else width,
                width - j if right else width,
            )
            row.append(((feathering - distance) / feathering) ** 2 if distance < feathering else 0.0)
        rows.append(row)
    return torch.tensor(rows)


@pytest.mark.parametrize("margins", [(8, 0, 0, 0), (0, 8, 0, 16), (8, 8, 8, 8), (0, 0, 8, 0)])
def test_padding_fades_the_mask_into_the_picture(margins):
    left, top, right, bottom = margins
    picture = torch.rand(2, 12, 10, 4)
    made = inpaint.pad_for_outpaint(picture, left, top, right, bottom, feathering=4)
    assert made.IMAGE.shape == (2, 12 + top + bottom, 10 + left + right, 4)
    assert torch.equal(made.IMAGE[:, top : top + 12, left : left + 10], picture)
    inside = made.MASK[0, top : top + 12, left : left + 10]
    assert torch.allclose(inside, mask_by_hand(12, 10, *margins, 4))
    outside = made.IMAGE.clone()
    outside[:, top : top + 12, left : left + 10] = 0.5
    assert outside.unique().tolist() == [0.5]
    assert made.MASK.sum() - inside.sum() == made.MASK.numel() - inside.numel()


@pytest.mark.parametrize("feathering", [0, 5])
def test_padding_without_room_for_feathering_has_a_hard_edge(feathering):
    made = inpaint.pad_for_outpaint(torch.rand(1, 12, 10, 3), 8, 0, 0, 0, feathering=feathering)
    assert not made.MASK[0, :, 8:].any()
