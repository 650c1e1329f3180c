import pytest
import torch

from limner.errors import BadInput
from limner.models.load import load_checkpoint
from limner.models.lora import add_lora, load_lora
from limner.weights import CheckpointHeader, save
from tests.models.checkpoints import checkpoint, memory
from tests.models.make import tiny_clip, tiny_unet
from tests.models.test_load import prediction

UNET = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"
UNET_NAMES = {
    "kohya": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    "kohya, reference names": "lora_unet_" + UNET.replace(".", "_"),
    "lycoris": "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    "diffusers": "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q",
    "peft": "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "native": f"diffusion_model.{UNET}",
}
TEXT_NAMES = {
    "kohya": "lora_te_" + TEXT.replace(".", "_"),
    "kohya, numbered": "lora_te1_" + TEXT.replace(".", "_"),
    "diffusers": f"text_encoder.{TEXT}",
    "native": f"text_encoders.clip_l.transformer.{TEXT}",
}


@pytest.fixture
def parts(tmp_path):
    return load_checkpoint(checkpoint(tmp_path), memory())


def pair(name, width, rank=2):
    torch.manual_seed(1)
    return {
        f"{name}.lora_up.weight": torch.randn(width, rank),
        f"{name}.lora_down.weight": torch.randn(rank, width),
        f"{name}.alpha": torch.tensor(1.0),
    }


def lora(folder, contents):
    save(folder / "lora.safetensors", contents)
    return folder / "lora.safetensors"


@pytest.mark.parametrize("style", UNET_NAMES)
def test_each_way_to_name_a_unets_weight_reaches_it(tmp_path, parts, style):
    contents = pair(UNET_NAMES[style], 8)
    model, clip = load_lora(lora(tmp_path, contents), parts.model, parts.clip, 0.5, 1.0)
    up, down, _ = contents.values()
    expected = tiny_unet().state_dict()[UNET + ".weight"] + 0.5 * 0.5 * up @ down
    with model.loaded() as network:
        assert torch.allclose(network.state_dict()[UNET + ".weight"], expected, atol=1e-6)
    assert not clip.source.patches


@pytest.mark.parametrize("style", TEXT_NAMES)
def test_each_way_to_name_a_text_encoders_weight_reaches_it(tmp_path, parts, style):
    contents = pair(TEXT_NAMES[style], 8)
    _, clip = load_lora(lora(tmp_path, contents), parts.model, parts.clip, 1.0, 2.0)
    up, down, _ = contents.values()
    expected = tiny_clip().state_dict()[TEXT + ".weight"] + 2.0 * 0.5 * up @ down
    with clip.loaded() as network:
        assert torch.allclose(network.clip_l.transformer.state_dict()[TEXT + ".weight"], expected, atol=1e-6)
    assert not torch.equal(clip.encode("a cat"), parts.clip.encode("a cat"))


def test_strength_zero_changes_nothing(tmp_path, parts):
    path = lora(tmp_path, pair(UNET_NAMES["kohya"], 8) | pair(TEXT_NAMES["kohya"], 8))
    model, clip = load_lora(path, parts.model, parts.clip, 0.0, 0.0)
    assert model.patches.digest == parts.model.patches.digest
    assert clip.source.patches_digest == ""


def test_two_loras_add_up(tmp_path, parts):
    path = lora(tmp_path, pair(UNET_NAMES["kohya"], 8))
    once, _ = load_lora(path, parts.model, None, 1.0, 0.0)
    twice, _ = load_lora(path, once, None, -1.0, 0.0)
    assert torch.allclose(prediction(twice), prediction(parts.model), atol=1e-5)
    assert not torch.allclose(prediction(once), prediction(parts.model), atol=1e-3)


@pytest.mark.parametrize("missing", ["model", "clip"])
def test_a_lora_loads_without_one_of_the_two(tmp_path, parts, missing):
    path = lora(tmp_path, pair(UNET_NAMES["kohya"], 8) | pair(TEXT_NAMES["kohya"], 8))
    model, clip = (None if missing == name else getattr(parts, name) for name in ("model", "clip"))
    new_model, new_clip = load_lora(path, model, clip, 1.0, 1.0)
    assert (new_model is None, new_clip is None) == (missing == "model", missing == "clip")


def test_names_that_belong_to_nothing_are_warned_about(tmp_path, parts, caplog):
    path = lora(tmp_path, pair(UNET_NAMES["kohya"], 8) | pair("lora_unet_of_another_model", 8))
    load_lora(path, parts.model, parts.clip, 1.0, 1.0)
    assert "lora_unet_of_another_model" in caplog.text


OTHERS = {
    "lora_unet_double_blocks_0_img_attn_qkv": "as in LoRAs for Chroma, Chroma Radiance, Flux, Flux Fill or Flux schnell.",
    "transformer.single_transformer_blocks.3.attn.to_q": "as in LoRAs for Chroma, Chroma Radiance, Flux, Flux Fill or Flux schnell.",
    "lora_unet_joint_blocks_7_x_block_attn_qkv": "as in LoRAs for Stable Diffusion 3.",
    "transformer.transformer_blocks.3.img_mlp.net.2": "as in LoRAs for Qwen-Image.",
    "lora_unet_of_nothing": "which no known model family has.",
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("with_text", [True, False])
def test_a_lora_of_another_family_is_refused_and_told_by_its_names(tmp_path, parts, name, with_text):
    path = lora(tmp_path, pair(name, 8) | pair("lora_te3_of_a_text_encoder", 8))
    with pytest.raises(BadInput) as caught:
        load_lora(path, parts.model, parts.clip if with_text else None, 1.0, 1.0)
    assert str(caught.value).startswith("lora.safetensors: none of its 6 tensors belongs to this Stable Diffusion 1")
    assert f"names like {name}.alpha, " in caught.value.why
    assert OTHERS[name] in caught.value.why


def test_a_lora_of_the_same_family_but_other_blocks_is_not_said_to_be_of_this_family(tmp_path, parts):
    path = lora(tmp_path, pair("lora_unet_input_blocks_9_0_of_a_larger_one", 8))
    with pytest.raises(BadInput) as caught:
        load_lora(path, parts.model, None, 1.0, 0.0)
    assert "Stable Diffusion XL" in caught.value.why
    assert "for Stable Diffusion 1" not in caught.value.why


def test_a_lora_of_text_encoders_alone_may_be_given_to_a_model_without_them(tmp_path, parts, caplog):
    path = lora(tmp_path, pair(TEXT_NAMES["kohya"], 8))
    model, _ = load_lora(path, parts.model, None, 1.0, 0.0)
    assert not model.patches
    assert "changes nothing" in caplog.text
    assert load_lora(path, parts.model, parts.clip, 1.0, 1.0)[1].source.patches


def test_a_lora_of_other_text_encoders_is_refused(tmp_path, parts):
    path = lora(tmp_path, pair("lora_te2_text_model_encoder_layers_30_mlp_fc1", 8))
    for model in (parts.model, None):
        with pytest.raises(BadInput, match="none of its 3 tensors belongs to"):
            load_lora(path, model, parts.clip, 1.0, 1.0)


def test_a_kind_of_change_that_is_not_known_is_told_apart_from_another_family(tmp_path, parts):
    path = lora(tmp_path, {f"{UNET_NAMES['kohya']}.hada_w1_x": torch.zeros(2, 2)})
    with pytest.raises(BadInput, match="is of a kind that is known") as caught:
        load_lora(path, parts.model, parts.clip, 1.0, 1.0)
    assert "ends in .hada_w1_x." in caught.value.why


def test_an_empty_lora_is_refused(tmp_path, parts):
    with pytest.raises(BadInput, match="holds no tensors"):
        load_lora(lora(tmp_path, {}), parts.model, parts.clip, 1.0, 1.0)


def test_packs_that_read_a_lora_themselves_are_only_warned(parts, caplog):
    header = CheckpointHeader.of(pair("lora_unet_of_another_model", 8))
    model, _ = add_lora(header, parts.model, parts.clip, 1.0, 1.0)
    assert not model.patches
    assert "changes nothing" in caplog.text
