"""Prompts for several encoders, and with pictures: what the text encoder and the model are given."""

import pytest
import torch

from limner.models.qwen_image import SYSTEM_EDIT, VISION, chat
from limner.nodes import encode


class Encoders:
    """Text encoders that write down what they are asked: a row of one token for each word, at least one."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys
        self.asked: list[tuple[str, dict]] = []
        self.encoded: dict = {}

    def tokenize(self, text, **options):
        self.asked.append((text, options))
        return {key: [[(word, 1.0)] for word in text.split() or [""]] for key in self.keys}

    def encode_from_tokens_scheduled(self, tokens, add_dict=None):
        self.encoded = tokens
        return [[torch.zeros(1, 1, 1), {"pooled_output": None, **(add_dict or {})}]]


class Autoencoder:
    """One whose latents are the pictures."""

    def encode(self, pixels):
        return pixels


def words(rows):
    return [row[0][0] for row in rows]


def test_each_encoder_reads_its_text_and_the_clips_equally_many_rows():
    clip = Encoders("l", "g", "t5xxl")
    encode.sd3(clip, "a red fox", "fox", "in the snow", "empty_prompt")
    found = {key: words(rows) for key, rows in clip.encoded.items()}
    assert found == {"l": ["a", "red", "fox"], "g": ["fox", "", ""], "t5xxl": ["in", "the", "snow"]}


@pytest.mark.parametrize(("padding", "t5"), [("none", []), ("empty_prompt", [""])])
def test_an_empty_text_is_nothing_or_the_empty_prompt(padding, t5):
    clip = Encoders("l", "g", "t5xxl")
    encode.sd3(clip, "fox", "", "", padding)
    assert {key: words(rows) for key, rows in clip.encoded.items()} == {"l": ["fox"], "g": [""], "t5xxl": t5}


def test_an_encoder_that_is_not_there_is_not_asked():
    clip = Encoders("t5xxl")
    encode.sd3(clip, "fox", "wolf", "bear", "none")
    assert {key: words(rows) for key, rows in clip.encoded.items()} == {"t5xxl": ["bear"]}


def test_a_picture_to_edit_is_seen_by_the_encoder_and_by_the_model():
    clip, image = Encoders("qwen25_7b"), torch.rand(1, 100, 400, 4)
    ((_, options),) = encode.qwen_image_edit(clip, "make it night", Autoencoder(), image)
    ((text, given),) = clip.asked
    assert text == "make it night"
    assert given["images"][0].shape == (1, 512, 2048, 3)
    assert options["reference_latents"][0].shape == (1, 512, 2048, 3)


def test_without_a_picture_it_is_a_plain_prompt():
    clip = Encoders("qwen25_7b")
    ((_, options),) = encode.qwen_image_edit(clip, "a fox", Autoencoder())
    assert clip.asked == [("a fox", {})]
    assert "reference_latents" not in options


def test_without_an_autoencoder_only_the_encoder_sees_the_picture():
    ((_, options),) = encode.qwen_image_edit(Encoders("qwen25_7b"), "night", image=torch.rand(1, 8, 8, 3))
    assert "reference_latents" not in options


def test_several_pictures_are_named_by_their_inputs():
    clip = Encoders("qwen25_7b")
    first, third = torch.rand(1, 300, 300, 3), torch.rand(1, 50, 100, 3)
    ((_, options),) = encode.qwen_image_edit_plus(clip, "both", Autoencoder(), image1=first, image3=third)
    ((text, given),) = clip.asked
    assert text == f"Picture 1: {VISION}Picture 3: {VISION}both"
    assert given["llama_template"] == chat(SYSTEM_EDIT)
    assert [tuple(image.shape[1:3]) for image in given["images"]] == [(384, 384), (272, 543)]
    assert [tuple(latent.shape[1:3]) for latent in options["reference_latents"]] == [(1024, 1024), (728, 1448)]


def test_sdxl_is_told_sizes_and_each_of_its_encoders_reads_its_own_text():
    clip = Encoders("l", "g")
    ((_, options),) = encode.sdxl(clip, 832, 1216, 16, 32, 1024, 896, text_g="a red fox", text_l="fox")
    assert {key: words(rows) for key, rows in clip.encoded.items()} == {"g": ["a", "red", "fox"], "l": ["fox", "", ""]}
    assert options == {
        "pooled_output": None, "width": 832, "height": 1216, "crop_w": 16, "crop_h": 32,
        "target_width": 1024, "target_height": 896,
    }  # fmt: skip


def test_the_refiner_is_told_a_score_and_a_size():
    clip = Encoders("g")
    ((_, options),) = encode.sdxl_refiner(2.5, 1024, 768, text="blurry", clip=clip)
    assert words(clip.encoded["g"]) == ["blurry"]
    assert options == {"pooled_output": None, "aesthetic_score": 2.5, "width": 1024, "height": 768}


def test_each_encoder_of_flux_reads_its_own_text_and_the_model_is_told_the_scale():
    clip = Encoders("l", "t5xxl")
    ((_, options),) = encode.flux(clip, "fox", "a red fox in the snow", 2.5)
    found = {key: words(rows) for key, rows in clip.encoded.items()}
    assert found == {"l": ["fox"], "t5xxl": ["a", "red", "fox", "in", "the", "snow"]}
    assert options == {"pooled_output": None, "guidance": 2.5}


def test_flux_without_t5_reads_the_text_of_clip():
    clip = Encoders("l")
    encode.flux(clip, "fox", "wolf")
    assert {key: words(rows) for key, rows in clip.encoded.items()} == {"l": ["fox"]}
