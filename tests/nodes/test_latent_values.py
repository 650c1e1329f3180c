"""Blank latents, operations on latents, rebatching, and options of conditioning."""

import pytest
import torch

from limner.nodes import family_conditioning, latent_empty, latent_operations, rebatch
from tests.nodes.make import ramp


@pytest.mark.parametrize(
    ("made", "shape"),
    [
        (latent_empty.sd3(64, 32, 2), (2, 16, 4, 8)),
        (latent_empty.hunyuan_image(64, 96), (1, 64, 3, 2)),
        (latent_empty.chroma_radiance(32, 16), (1, 3, 16, 32)),
        (latent_empty.hunyuan_video(64, 32, 25), (1, 16, 7, 4, 8)),
        (latent_empty.mochi(64, 32, 25), (1, 12, 5, 4, 8)),
        (latent_empty.cosmos(64, 32, 121), (1, 16, 16, 4, 8)),
        (latent_empty.ltxv(64, 96, 97), (1, 128, 13, 3, 2)),
        (latent_empty.ace_step(10.0, 3), (3, 8, 16, 107)),
        (latent_empty.stable_audio(47.6), (1, 64, 1024)),
        (latent_empty.hunyuan_3d(3072, 2), (2, 64, 3072)),
    ],
)
def test_blank_latents_have_the_shapes_of_their_families(made, shape):
    assert made["samples"].shape == shape
    assert not made["samples"].any()


def test_sounds_are_marked():
    assert latent_empty.ace_step(10.0)["type"] == latent_empty.stable_audio(10.0)["type"] == "audio"


def test_a_cascade_starts_from_two_latents():
    stages = latent_empty.stable_cascade(1024, 512, 42)
    assert stages.stage_c["samples"].shape == (1, 16, 12, 24)
    assert stages.stage_b["samples"].shape == (1, 4, 128, 256)


def test_a_video_loses_its_first_frames():
    assert latent_empty.trim_video({"samples": ramp(1, 1, 4, 1, 1)}, 3)["samples"].flatten().tolist() == [3]


def test_tone_mapping_shortens_and_keeps_directions():
    given = {"samples": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), "batch_index": [3, 4]}
    made = latent_operations.apply_operation(given, latent_operations.tonemap(1.0))
    before, after = (tensor.norm(dim=1) for tensor in (given["samples"], made["samples"]))
    top = before.flatten(1).std(1) * 5 + before.flatten(1).mean(1)
    assert torch.allclose(after, before / (1 + before / top.view(2, 1, 1)), atol=1e-5)
    cosine = torch.nn.functional.cosine_similarity(given["samples"], made["samples"], dim=1)
    assert torch.allclose(cosine, torch.ones_like(cosine), atol=1e-5)
    assert made["batch_index"] == [3, 4]


def test_sharpening_leaves_what_is_even_alone():
    even = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 24, 24)
    made = latent_operations.sharpen(9, 1.0, 0.5)(latent=even)
    assert torch.allclose(made, even, atol=1e-4)


def test_sharpening_makes_a_difference_larger():
    x = torch.ones(1, 2, 8, 8)
    x[..., 3, 3] = torch.tensor([1.0, -1.0])
    made = latent_operations.sharpen(1, 1.0, 0.1)(latent=x)
    assert made[0, 1, 3, 3] < -1.05


def latents(*counts, side=2, **more):
    found, start = [], 0
    for count in counts:
        found.append({"samples": ramp(count, 1, side, side) + start, **more})
        start += 100
    return found


def counts(batches):
    return [len(batch["samples"]) for batch in batches]


@pytest.mark.parametrize(
    ("given", "size", "expected"), [((3, 3), 2, [2, 2, 2]), ((5,), 2, [2, 2, 1]), ((1, 1), 4, [2]), ((4,), 4, [4])]
)
def test_latents_are_regrouped(given, size, expected):
    assert counts(rebatch.rebatch_latents(latents(*given), [size])) == expected


def test_regrouped_latents_keep_count_of_their_noise():
    made = rebatch.rebatch_latents(latents(2, 2), [3])
    assert [batch["batch_index"] for batch in made] == [[0, 1, 2], [3]]
    assert rebatch.rebatch_latents(latents(2, batch_index=[7, 7]), [1])[1]["batch_index"] == [7]


def test_other_sizes_begin_a_new_batch():
    assert counts(rebatch.rebatch_latents([*latents(1), *latents(1, side=4)], [4])) == [1, 1]


def test_a_mask_stays_only_with_batches_that_need_it():
    mask = torch.ones(2, 1, 16, 16)
    mask[1] = 0
    made = rebatch.rebatch_latents(latents(2, noise_mask=mask), [1])
    assert ["noise_mask" in batch for batch in made] == [False, True]


def test_masks_of_different_sizes_are_fitted_to_the_first():
    plain, masked = latents(1, 1)
    masked["noise_mask"] = torch.zeros(1, 1, 4, 4)
    (made,) = rebatch.rebatch_latents([plain, masked], [2])
    assert made["noise_mask"].shape == (2, 1, 16, 16)
    assert made["noise_mask"][1].sum() == 0


CONDITIONING = [[torch.zeros(1, 2, 3), {"pooled_output": "kept"}], [torch.ones(1, 2, 3), {}]]


def options(conditioning):
    return [dict(values) for _, values in conditioning]


def test_a_distilled_models_scale_is_an_option():
    assert options(family_conditioning.flux_guidance(CONDITIONING, 2.5))[0] == {
        "pooled_output": "kept", "guidance": 2.5,
    }  # fmt: skip
    assert options(family_conditioning.flux_disable_guidance(CONDITIONING))[1] == {"guidance": None}
    assert options(CONDITIONING)[1] == {}


def test_reference_latents_add_up():
    once = family_conditioning.reference_latent(CONDITIONING, {"samples": "a"})
    twice = family_conditioning.reference_latent(once, {"samples": "b"})
    assert [values["reference_latents"] for values in options(twice)] == [["a", "b"]] * 2
    assert options(once)[0]["reference_latents"] == ["a"]
    assert family_conditioning.reference_latent(CONDITIONING) is CONDITIONING


def test_a_box_of_a_video_is_in_parts_of_its_sides():
    made = family_conditioning.set_area_percentage_video(CONDITIONING, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    assert options(made)[0]["area"] == ("percentage", 0.3, 0.2, 0.1, 0.6, 0.5, 0.4)


def test_both_conditionings_get_the_times_of_a_sound_and_the_rate_of_a_video():
    pair = family_conditioning.stable_audio(CONDITIONING, CONDITIONING, 1.0, 2.0)
    assert all(values["seconds_total"] == 2.0 for values in options(pair.positive + pair.negative))
    pair = family_conditioning.ltxv(CONDITIONING, CONDITIONING, 24.0)
    assert all(values["frame_rate"] == 24.0 for values in options(pair.positive + pair.negative))


def test_an_upscaling_model_is_shown_the_small_picture():
    pictures = torch.full((2, 16, 32, 3), 0.75)
    made = family_conditioning.upscale_4x(pictures, CONDITIONING, CONDITIONING, 4.0, 0.1)
    assert made.latent["samples"].shape == (2, 4, 16, 32)
    shown = options(made.negative)[0]["concat_image"]
    assert shown.shape == (2, 3, 16, 32)
    assert torch.allclose(shown, torch.tensor(0.5))
    assert options(made.positive)[0]["noise_augmentation"] == 0.1


def test_a_text_for_control_networks_is_kept_apart():
    class Encoder:
        def tokenize(self, text):
            return text

        def encode_from_tokens(self, tokens, return_pooled):
            return tokens.upper(), return_pooled

    made = options(family_conditioning.encode_for_control(Encoder(), CONDITIONING, "cat"))[0]
    assert (made["cross_attn_controlnet"], made["pooled_output_controlnet"]) == ("CAT", True)
