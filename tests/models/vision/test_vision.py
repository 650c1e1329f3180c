"""Vision encoders and style models. Numbers are the golden cases' and the comparison's with transformers."""

import pytest
import torch

from limner.errors import BadInput
from limner.models.load_vision import (
    clip_vision_beside,
    clip_vision_in_checkpoint,
    clip_vision_of,
)
from limner.models.style_models import StyleAdapter, style_model_of
from limner.models.vision.kind import recognise, vision_encoders
from limner.models.vision.preprocess import preprocess
from limner.models.vision.transformer import VisionConfig
from limner.weights import CheckpointHeader
from tests.models.checkpoints import memory
from tests.models.make import shapes_of
from tests.models.vision.make import (
    TINY,
    adapter,
    clip_vision,
    open_clip,
    redux,
    style_model,
    tiny_siglip,
    tiny_vision,
)

IMAGE = torch.rand(3, 20, 30, 3, generator=torch.Generator().manual_seed(1))


def test_the_folder_is_the_registry():
    assert set(vision_encoders()) == {"clip", "siglip"}


def layered(depth: int, width: int, positions: int, patch: int = 14, class_token: bool = True) -> CheckpointHeader:
    """The shapes of a published encoder."""
    root = "vision_model.embeddings"
    tensors = [
        [f"{root}.patch_embedding.weight", "F16", [width, 3, patch, patch]],
        [f"{root}.position_embedding.weight", "F16", [positions, width]],
        ["vision_model.post_layernorm.weight", "F16", [width]],
    ]
    if class_token:
        tensors += [[f"{root}.class_embedding", "F16", [width]], ["vision_model.pre_layrnorm.weight", "F16", [width]]]
    else:
        tensors += [[f"{root}.patch_embedding.bias", "F16", [width]], ["vision_model.head.probe", "F16", [1, 1, width]]]
    for number in range(depth):
        layer = f"vision_model.encoder.layers.{number}"
        tensors.append([f"{layer}.layer_norm1.weight", "F16", [width]])
        tensors.append([f"{layer}.mlp.fc1.weight", "F16", [4 * width, width]])
    return CheckpointHeader.unstripped({"tensors": tensors})


@pytest.mark.parametrize(
    ("header", "kind", "size", "act"),
    [
        (layered(24, 1024, 257), "clip", 224, "quick_gelu"),
        (layered(24, 1024, 577), "clip", 336, "quick_gelu"),
        (layered(32, 1280, 257), "clip", 224, "gelu"),
        (layered(48, 1664, 257), "clip", 224, "gelu"),
        (layered(27, 1152, 729, class_token=False), "siglip", 384, "gelu_pytorch_tanh"),
        (layered(27, 1152, 1024, 16, class_token=False), "siglip", 512, "gelu_pytorch_tanh"),
    ],
    ids=["L", "L-336", "H", "G", "so400m-14", "so400m-16"],
)
def test_published_encoders_are_known_by_their_shapes(header, kind, size, act):
    found, part = recognise(header)
    config = found.infer_config(part, {})
    assert (found.name, config.image_size, config.hidden_act, config.num_attention_heads) == (kind, size, act, 16)
    assert not any(name.startswith("vision_model.head.") for name in part)


@pytest.mark.parametrize("changes", [{}, {"projection_dim": None}, {"projector_dims": (20, 24)}, {"patch_size": 8}])
def test_the_config_that_shapes_tell_is_the_one_the_encoder_was_made_with(changes):
    config = VisionConfig(**{**TINY.__dict__, **changes})
    assert VisionConfig.from_state(shapes_of(tiny_vision(**changes)), {}, "gelu") == config


@pytest.mark.parametrize(
    ("said", "complaint"),
    [({"hidden_size": 17}, "hidden_size"), ({"hidden_act": "relu"}, "relu"), ({"num_attention_heads": 3}, "heads"),
     ({"projection_dim": 5}, "projection_dim")],
)  # fmt: skip
def test_a_config_that_cannot_be_is_refused(said, complaint):
    with pytest.raises(BadInput, match=complaint):
        VisionConfig.from_state(shapes_of(tiny_vision()), said, "gelu")


def test_what_an_encoder_says_is_read_by_attribute_and_by_name():
    vision = clip_vision()
    found = vision.encode_image(IMAGE)
    assert found.last_hidden_state.shape == found.penultimate_hidden_states.shape == (3, 17, 16)
    assert found["image_embeds"].shape == (3, 12)
    assert found.all_hidden_states is None
    assert found.mm_projected is None
    found["mine"] = 3
    assert found.mine == 3
    alone = vision.encode_image(IMAGE[1:2])
    assert torch.allclose(alone.image_embeds, found.image_embeds[1:2], atol=1e-5)
    assert not torch.allclose(vision.encode_image(IMAGE, crop=False).image_embeds, found.image_embeds, atol=1e-3)


def test_siglip_gives_every_layer_and_its_tokens_are_its_embeds():
    found = clip_vision(tiny_siglip()).encode_image(IMAGE)
    assert found.all_hidden_states.shape == (3, 3, 16, 16)
    assert torch.equal(found.all_hidden_states[:, -2], found.penultimate_hidden_states)
    assert torch.equal(found.image_embeds, found.last_hidden_state)


def test_a_projector_reads_the_patches_of_the_layer_before_the_last():
    network = tiny_vision(projector_dims=(20, 24))
    found = clip_vision(network).encode_image(IMAGE)
    expected = network.multi_modal_projector(found.penultimate_hidden_states[:, 1:])
    assert torch.allclose(found.mm_projected, expected, atol=1e-5)
    pixels = preprocess(IMAGE, 16)
    assert torch.allclose(network(pixels).projected, expected, atol=1e-5)
    assert torch.allclose(network(pixels, intermediate_output="all").projected, expected, atol=1e-5)


def test_what_packs_read_of_an_encoder():
    vision = clip_vision()
    assert (vision.image_size, vision.dtype, vision.load_device.type) == (16, torch.float32, "cpu")
    assert vision.image_mean[0] == pytest.approx(0.48145466)
    assert clip_vision(tiny_siglip()).image_std == [0.5, 0.5, 0.5]
    last, penultimate, embeds = vision.model(pixel_values=preprocess(IMAGE, 16), intermediate_output=-2)[:3]
    found = vision.encode_image(IMAGE)
    assert torch.equal(last, found.last_hidden_state)
    assert torch.equal(penultimate, found.penultimate_hidden_states)
    assert torch.equal(embeds, found.image_embeds)
    assert vision.patcher.model is vision.model
    assert set(vision.get_sd()) == set(tiny_vision().state_dict())


@pytest.mark.parametrize("prefix", ["embedder.model.visual.", "conditioner.embedders.0.open_clip.model.visual."])
def test_the_encoder_in_a_checkpoint_is_found_in_openclips_names(prefix):
    tensors = open_clip(tiny_vision())
    header = CheckpointHeader.of({prefix + name: value for name, value in tensors.items()})
    expected = clip_vision().encode_image(IMAGE).image_embeds
    found = clip_vision_in_checkpoint(header, prefix, memory())
    assert torch.allclose(found.encode_image(IMAGE).image_embeds, expected, atol=1e-5)
    assert clip_vision_in_checkpoint(header, "other.", memory()) is None
    assert clip_vision_beside(header, memory()).image_size == 16
    assert clip_vision_beside(CheckpointHeader.of({}), memory()) is None
    whole = CheckpointHeader.of({f"visual.{name}": value for name, value in tensors.items()})
    assert torch.allclose(clip_vision_of(whole, memory()).encode_image(IMAGE).image_embeds, expected, atol=1e-5)


def test_a_batch_is_split_by_the_memory_that_is_left():
    vision = clip_vision()
    expected = vision.encode_image(IMAGE).image_embeds
    sizes = []
    vision.model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    vision.memory.available = lambda _=None: 1
    assert torch.allclose(vision.encode_image(IMAGE).image_embeds, expected, atol=1e-5)
    assert sizes == [1, 1, 1]


def test_a_file_that_is_no_vision_encoder_is_refused():
    with pytest.raises(BadInput, match="no known vision encoder"):
        clip_vision_of(CheckpointHeader.of({"a": torch.zeros(1)}), memory())


def test_pictures_of_another_size_are_refused_by_the_network():
    with pytest.raises(BadInput, match="knows 17 positions"):
        tiny_vision()(torch.zeros(1, 3, 24, 24))
    with pytest.raises(BadInput, match="no layer -4"):
        tiny_vision()(torch.zeros(1, 3, 16, 16), intermediate_output=-4)


def test_a_picture_of_the_right_size_is_only_normalised():
    picture = torch.full((1, 16, 16, 4), 0.5)
    found = preprocess(picture, 16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert torch.allclose(found, torch.full((1, 3, 16, 16), (128 / 255 - 0.5) / 0.5), atol=1e-6)


def test_redux_makes_a_token_of_each_and_the_adapter_those_of_its_own():
    seen = clip_vision().encode_image(IMAGE)
    assert style_model().get_cond(seen).shape == (3, 17, 8)
    assert style_model(adapter()).get_cond(seen).shape == (3, 3, 8)
    network = redux()
    expected = network.redux_down(torch.nn.functional.silu(network.redux_up(seen.last_hidden_state)))
    assert torch.allclose(style_model(network).get_cond(seen), expected, atol=1e-5)


def test_the_adapters_attention_is_torchs():
    network = adapter()
    layer, x = network.transformer_layes[0], torch.rand(2, 5, 16)
    torchs = torch.nn.MultiheadAttention(16, 1, batch_first=True)
    torchs.load_state_dict(layer.attn.state_dict())
    assert torch.allclose(layer.attn(x), torchs(x, x, x, need_weights=False)[0], atol=1e-5)
    heads = StyleAdapter.of({"style_embedding": (1, 8, 1024), "proj": (1024, 768)}).args[2]
    assert heads == 8


def test_a_style_model_refuses_another_vision_encoder_and_an_unknown_file():
    with pytest.raises(BadInput, match="takes tokens of 24 channels"):
        style_model(redux(takes=24)).get_cond(clip_vision().encode_image(IMAGE))
    with pytest.raises(BadInput, match=r"no known style model.*Redux"):
        style_model_of(CheckpointHeader.of({"a": torch.zeros(1)}), memory())
