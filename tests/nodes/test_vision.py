"""Vision encoders and style models as nodes, and what they add to a conditioning."""

from math import log
from types import SimpleNamespace

import pytest
import torch

from limner.errors import BadInput
from limner.nodes import vision
from limner.store.folders import ModelFolders
from limner.weights import save
from tests.models.checkpoints import checkpoint, memory, tensors
from tests.models.vision.make import clip_vision, open_clip, redux, style_model, tiny_vision
from tests.nodes.make import run_in

IMAGE = torch.rand(2, 16, 24, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def run(tmp_path):
    made = run_in(tmp_path)
    made.store.folders = ModelFolders.open(tmp_path, tmp_path / "output")
    made.settings.offline, made.settings.model_hub = True, None
    object.__setattr__(made, "memory", memory())
    return made


def place(run, key, name):
    path = run.store.folders.roots(key)[0] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def text(tokens=4, batch=1, **entries):
    return [[torch.ones(batch, tokens, 8), entries]]


def style():
    """Eight channels, two pictures of three tokens."""
    return SimpleNamespace(get_cond=lambda _: torch.full((2, 3, 8), 2.0))


def test_encoder_and_style_model_are_loaded_from_their_folders(run):
    save(place(run, "clip_vision", "h.safetensors"), tiny_vision().state_dict())
    save(place(run, "style_models", "redux.safetensors"), redux().state_dict())
    encoder = vision.load_vision_file(run, "h.safetensors")
    seen = vision.encode_picture(encoder, IMAGE, "center")
    assert torch.equal(seen.image_embeds, clip_vision().encode_image(IMAGE).image_embeds)
    assert not torch.equal(vision.encode_picture(encoder, IMAGE, "none").image_embeds, seen.image_embeds)
    model = vision.load_style_file(run, "redux.safetensors")
    assert torch.equal(model.get_cond(seen), style_model().get_cond(seen))


def test_a_checkpoint_brings_its_vision_encoder(run):
    shown = {f"embedder.model.visual.{name}": value for name, value in open_clip(tiny_vision()).items()}
    checkpoint(place(run, "checkpoints", "a").parent, tensors() | shown, "shown.safetensors")
    checkpoint(place(run, "checkpoints", "a").parent, tensors(), "plain.safetensors")
    model, clip, vae, encoder = vision.load_unclip_file(run, "shown.safetensors")
    assert model is not None
    assert clip is not None
    assert vae.latent_channels == 4
    assert torch.equal(encoder.encode_image(IMAGE).image_embeds, clip_vision().encode_image(IMAGE).image_embeds)
    assert vision.load_unclip_file(run, "plain.safetensors").CLIP_VISION is None
    with pytest.raises(BadInput, match="no vision encoder"):
        vision.encode_picture(None, IMAGE, "center")


def test_tokens_of_pictures_stand_behind_the_text():
    given = text(batch=2, pooled_output=1)
    ((tokens, entries),) = vision.apply_style(given, style(), None, 0.5, strength_type="multiply")
    assert tokens.shape == (2, 10, 8)
    assert torch.equal(tokens[:, :4], given[0][0])
    assert (tokens[:, 4:] == 1.0).all()
    assert entries == {"pooled_output": 1}
    with pytest.raises(BadInput, match="channels"):
        vision.apply_style([[torch.ones(1, 4, 6), {}]], style(), None, 1.0, strength_type="multiply")


def test_a_bias_is_on_what_others_see_of_the_new_tokens():
    ((tokens, entries),) = vision.apply_style(text(), style(), None, 0.5, strength_type="attn_bias")
    assert (tokens[:, 4:] == 2.0).all()
    mask = entries["attention_mask"]
    assert mask.shape == (1, 11, 11)
    assert entries["attention_mask_img_shape"] == (1, 1)
    expected = torch.zeros(11, 11)
    expected[:4, 4:10] = expected[10, 4:10] = log(0.5)
    assert torch.allclose(mask[0], expected)
    ((_, plain),) = vision.apply_style(text(), style(), None, 1.0, strength_type="attn_bias")
    assert plain == {}
    ((_, hidden),) = vision.apply_style(text(), style(), None, 0.0, strength_type="attn_bias")
    assert torch.isneginf(hidden["attention_mask"][0, :4, 4:10]).all()


@pytest.mark.parametrize("kind", ["multiply", "attn_bias"])
def test_a_mask_that_is_there_is_kept_around_the_new_tokens(kind):
    old = torch.rand(1, 10, 10, generator=torch.Generator().manual_seed(3)) > 0.5
    given = text(attention_mask=old, attention_mask_img_shape=(2, 3))
    ((_, entries),) = vision.apply_style(given, style(), None, 2.0, strength_type=kind)
    mask, kept = entries["attention_mask"], torch.tensor([0, 1, 2, 3, 10, 11, 12, 13, 14, 15])
    assert mask.shape == (1, 16, 16)
    assert entries["attention_mask_img_shape"] == (2, 3)
    assert torch.equal(mask[0][kept][:, kept].exp() > 0.5, old[0])
    assert torch.allclose(mask[0][kept][:, 4:10], torch.tensor(log(2.0) if kind == "attn_bias" else 0.0))
    assert given[0][1]["attention_mask"] is old


def test_a_mask_of_the_text_alone_hides_the_same_words_from_all():
    ((_, entries),) = vision.apply_style(
        text(attention_mask=torch.tensor([[True, True, False, False]])), style(), None, 1.0, strength_type="multiply"
    )
    mask = entries["attention_mask"][0]
    assert torch.isneginf(mask[:4, 2:4]).all()
    assert torch.isneginf(mask[10, 2:4]).all()
    assert (mask[:4, :2] == 0).all()
    assert (mask[:, 4:] == 0).all()


def test_pictures_are_added_for_unclip_in_the_order_they_come():
    first = vision.add_pictures(text(), "a", 0.5, 0.25)
    second = vision.add_pictures(first, "b")
    assert [one["clip_vision_output"] for one in second[0][1]["unclip_conditioning"]] == ["a", "b"]
    assert second[0][1]["unclip_conditioning"][0] == {
        "clip_vision_output": "a", "strength": 0.5, "noise_augmentation": 0.25,
    }  # fmt: skip
    assert len(first[0][1]["unclip_conditioning"]) == 1
    assert vision.add_pictures(first, "c", 0.0) is first
