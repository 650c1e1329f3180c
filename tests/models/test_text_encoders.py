"""Kinds of text encoders: recognised, computed, several in one CLIP, saved and loaded again."""

import json
from itertools import permutations

import pytest
import torch

from limner.errors import BadInput
from limner.models.detect import families
from limner.models.load_text import clip_in_checkpoint, load_clip
from limner.models.lora import load_lora
from limner.models.saving import clip_tensors, save_clip
from limner.models.text.clip import CLIPTextConfig
from limner.models.text.encode import Encoded, EncodeSettings, encode_weighted, not_padding
from limner.models.text.kinds import encoders, parts_of
from limner.models.text.qwen25 import PICTURE, Qwen25Config
from limner.models.text.qwen25_vision import VisionConfig, fitting
from limner.models.text.t5 import T5Config
from limner.models.text.tokenizer import RowTokenizer
from limner.models.text.vocabulary import TokenizerJson
from limner.weights import CheckpointHeader, save
from tests.models.checkpoints import CLIP_SAYS, memory, real_header, text_files
from tests.models.make import TINY_QWEN, TINY_T5, shapes_of, tiny_bpe, tiny_clip, tiny_qwen, tiny_t5, tiny_words

T5 = EncodeSettings(end=1, pad=0)


def config(**parts):
    return json.dumps(parts)


@pytest.fixture
def files(tmp_path):
    """CLIP-L, CLIP-G and T5 as files of their own."""
    return text_files(tmp_path)


def together(files, *names, type="sd3"):  # noqa: A002
    return load_clip([files[name] for name in names], type, memory())


# -- kinds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("te-clip-l", "clip_l"), ("te-clip-h", "clip_h"), ("te-clip-g", "clip_g"),
        ("te-t5xxl", "t5xxl"), ("te-t5xxl-old", "t5xxl_old"), ("te-t5-base", "t5base"),
        ("te-t5-pile-xl", "pile_t5xl"), ("te-umt5xxl", "umt5xxl"), ("te-byt5-small-glyph", "byt5_small_glyph"),
        ("te-qwen2.5-3b", "qwen25_3b"), ("te-qwen2.5-vl-7b", "qwen25_7b"), ("te-llama3.1-8b", None),
    ],
)  # fmt: skip
def test_a_published_file_is_of_one_kind(header, kind):
    assert [part.kind.name for part in parts_of(real_header(header))] == ([] if kind is None else [kind])


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("te-t5xxl", T5Config()),
        ("te-umt5xxl", T5Config(vocab_size=256384, own_bias=True)),
        ("te-qwen2.5-vl-7b", Qwen25Config(vision=VisionConfig())),
        ("te-clip-g", CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
                                     num_attention_heads=20, projection_dim=1280, hidden_act="gelu")),
    ],
)  # fmt: skip
def test_the_dimensions_of_a_published_file_are_its_publishers(header, expected):
    part = parts_of(real_header(header))[0]
    assert part.kind.config(part.header.shapes(), {}) == expected


def test_a_config_of_other_dimensions_is_refused():
    with pytest.raises(BadInput, match="d_model"):
        T5Config.from_state(shapes_of(tiny_t5()), {"d_model": 4096})
    with pytest.raises(BadInput, match="dense_act_fn"):
        T5Config.from_state(shapes_of(tiny_t5()), {"dense_act_fn": "swish"})
    with pytest.raises(BadInput, match="head_dim"):
        Qwen25Config.from_state(shapes_of(tiny_qwen()), {"head_dim": 24})


def test_what_shapes_tell_is_what_an_encoder_was_made_with():
    assert T5Config.from_state(shapes_of(tiny_t5()), {}) == TINY_T5
    said = {"head_dim": 16, "vision_config": {"num_heads": 2, "full_blocks": [1]}}
    assert Qwen25Config.from_state(shapes_of(tiny_qwen()), said) == TINY_QWEN


def test_other_publishers_names_are_the_same_encoder():
    t5 = tiny_t5().state_dict()
    whole = {**t5, "decoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(1), "lm_head.weight": torch.zeros(1)}
    whole["encoder.embed_tokens.weight"] = whole.pop("shared.weight")
    assert set(parts_of(CheckpointHeader.of(whole))[0].header) == set(t5)
    qwen = tiny_qwen().state_dict()
    later = {
        name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else f"model.{name}": tensor
        for name, tensor in qwen.items()
    }
    part = parts_of(CheckpointHeader.of({**later, "lm_head.weight": torch.zeros(1)}))[0]
    assert part.kind.name == "qwen25_7b"
    assert set(part.header) == set(qwen)


@pytest.mark.parametrize("make", [tiny_t5, tiny_qwen, lambda: tiny_t5(own_bias=True), lambda: tiny_t5(
    is_gated_act=False, dense_act_fn="relu")])  # fmt: skip
def test_every_parameter_of_the_language_part_gets_a_gradient(make):
    network = make()
    network(torch.tensor([[3, 4, 5, 1]])).last.square().mean().backward()
    without = [name for name, one in network.named_parameters() if one.grad is None and not name.startswith("visual.")]
    assert without == []


def test_t5_in_half_precision_stays_finite_where_products_are_too_large_for_it():
    network = tiny_t5(is_gated_act=True)
    with torch.no_grad():
        for block in network.encoder.block:
            block.layer[1].DenseReluDense.wi_0.weight.mul_(900)
            block.layer[1].DenseReluDense.wi_1.weight.mul_(900)
            block.layer[1].DenseReluDense.wo.weight.mul_(1e-4)
    ids = torch.tensor([[3, 4, 5, 1]])
    with torch.inference_mode():
        exact, half = network(ids).last, network.half()(ids).last
    assert half.isfinite().all()
    assert torch.allclose(half.float(), exact, atol=0.05)


# -- masks and padding ------------------------------------------------------------------------------------------------


def test_padding_is_before_the_text_or_behind_its_first_end_token():
    rows = torch.tensor([[4, 5, 1, 0, 0], [0, 0, 4, 5, 1], [4, 1, 5, 1, 0]])
    assert not_padding(rows, 1, 0).tolist() == [[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert not_padding(torch.tensor([[9, 4, 9, 9], [9, 9, 4, 9]]), None, 9).tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]
    assert not_padding(torch.tensor([[0, 0]]), 1, 0).tolist() == [[1, 1]]


def test_masked_padding_changes_nothing_and_is_told():
    short, long = ([(4, 1.0), (5, 1.0), (1, 1.0), *[(0, 1.0)] * pads] for pads in (0, 3))
    masked = EncodeSettings(masked=True, return_mask=True, end=1, pad=0)
    with torch.inference_mode():
        plain, padded = (encode_weighted(tiny_t5(), [row], masked) for row in (short, long))
        seen = encode_weighted(tiny_t5(), [long], T5)
        zeroed = encode_weighted(tiny_t5(), [long], EncodeSettings(masked=True, zero_masked=True, end=1, pad=0))
    assert torch.allclose(padded.cond[:, :3], plain.cond, atol=1e-6)
    assert not torch.allclose(seen.cond[:, :3], plain.cond, atol=1e-3)
    assert padded.extra["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0]]
    assert not zeroed.cond[:, 3:].any()
    assert zeroed.cond[:, :3].any()
    assert plain.pooled is None


def test_left_padding_gives_the_same_encoding_of_the_text():  # seed-S24
    ids = [600, 601, 602]
    settings = EncodeSettings(masked=True, pad=9)
    left = [(9, 1.0)] * 4 + [(token, 1.0) for token in ids]
    with torch.inference_mode():
        alone = encode_weighted(tiny_qwen(), [[(token, 1.0) for token in ids]], settings).cond
        padded = encode_weighted(tiny_qwen(), [left], settings).cond
    assert torch.allclose(padded[:, 4:], alone, atol=1e-5)


def test_all_three_steps_of_padding_go_to_the_left_when_asked():  # seed-S24
    words = TokenizerJson(tiny_words())
    for settings, length in (
        ({"max_length": None, "min_padding": 2}, 5),
        ({"max_length": 6}, 6),
        ({"max_length": None, "min_length": 7}, 7),
        ({"max_length": None, "min_padding": 1, "min_length": 7}, 7),
    ):
        right, left = (
            RowTokenizer(words, None, 1, 0, **settings, pad_left=side).rows("cat dog")[0] for side in (False, True)
        )
        assert len(left) == len(right) == length
        assert left == [(0, 1.0, 0)] * (length - 3) + right[:3]


def test_the_row_that_weights_count_from_may_be_nothing_but_padding():
    row = [(4, 1.5), (1, 1.0)]
    with torch.inference_mode():
        found = encode_weighted(tiny_t5(), [row], EncodeSettings(end=1, pad=0, empty_end=False)).cond[0, 0]
        network = tiny_t5()
        plain, empty = network(torch.tensor([[4, 1]])).last[0, 0], network(torch.tensor([[0, 0]])).last[0, 0]
    assert torch.allclose(found, empty + 1.5 * (plain - empty), atol=1e-5)


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_a_picture_stands_for_as_many_places_as_it_has_vectors():
    picture = {"type": "image", "data": torch.rand(1, 60, 90, 3), "original_type": "image"}
    rows = [[(600, 1.0), (picture, 1.0), (601, 1.0)]]
    network = tiny_qwen()
    with torch.inference_mode():
        found = encode_weighted(network, rows, EncodeSettings(pad=9)).cond
        seen = network.see(picture["data"])
    assert seen.grid == (1, 2, 3)
    assert seen.vectors.shape == (6, 16)
    assert found.shape == (1, 8, 16)


def test_text_behind_a_picture_counts_on_from_its_longest_side():
    positions = tiny_qwen().positions(9, [(2, (1, 2, 3))])
    assert positions[0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 5]
    assert positions[1].tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 5]
    assert positions[2].tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 5]


def test_the_sides_of_a_picture_become_multiples_of_what_is_merged():
    assert fitting(1024, 1000, 28) == (1036, 1008)
    assert fitting(1, 1, 28) == (56, 56)
    rows, columns = fitting(8000, 8000, 28)
    assert rows * columns <= 12_845_056


def test_an_encoder_that_reads_no_pictures_says_so():
    picture = {"type": "image", "data": torch.rand(1, 30, 30, 3)}
    with pytest.raises(BadInput, match="reads no pictures"):
        encode_weighted(tiny_t5(), [[(picture, 1.0)]], T5)
    with pytest.raises(BadInput, match="lacks the vision tower"):
        tiny_qwen(vision=None).see(picture["data"])
    with pytest.raises(BadInput, match="'video'"):
        encode_weighted(tiny_qwen(), [[({"type": "video"}, 1.0)]], T5)


def test_pictures_of_a_prompt_take_the_places_left_for_them(tmp_path):
    said = {"config": config(qwen25_7b={"head_dim": 16, "vision_config": {"num_heads": 2, "full_blocks": [1]}})}
    words = tiny_words(**{"<|image_pad|>": PICTURE})
    save(tmp_path / "q.safetensors", tiny_qwen().state_dict(), {**said, "tokenizer_json": words.to_str()})
    clip = load_clip([tmp_path / "q.safetensors"], "qwen_image", memory())
    picture = torch.rand(1, 56, 56, 3)
    (row,) = clip.tokenize("a cat", images=[picture])["qwen25_7b"]
    assert [token[0]["data"] is picture for token in row if isinstance(token[0], dict)] == [True]
    assert clip.encode_from_tokens({"qwen25_7b": [row]}).shape == (1, len(row) + 3, 16)
    two = clip.tokenize("<|image_pad|> a <|image_pad|>", images=[picture], llama_template="{}")["qwen25_7b"][0]
    assert [type(token[0]) for token in two] == [dict, int, int]


# -- several in one CLIP ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(permutations(("l", "g", "t5"))))
def test_files_may_come_in_any_order(files, order):
    clip, again = together(files, "l", "g", "t5"), together(files, *order)
    assert [encoder.name for encoder in again.encoders] == ["clip_l", "clip_g", "t5xxl"]
    assert torch.equal(again.encode("a cat"), clip.encode("a cat"))
    assert clip.encode("a cat").shape == (1, 77 + 77, 32)


def test_each_encoder_has_its_own_tokens_and_names(files):
    clip = together(files, "t5", "l", "g")
    tokens = clip.tokenize("a cat", return_word_ids=True)
    assert list(tokens) == ["l", "g", "t5xxl"]
    assert [len(tokens[key][0]) for key in tokens] == [77, 77, 77]
    assert [token[0] for token in tokens["l"][0][-2:]] == [517, 517]
    assert [token[0] for token in tokens["g"][0][-2:]] == [0, 0]
    assert tokens["t5xxl"][0][:4] == [(3, 1.0, 1), (4, 1.0, 1), (1, 1.0, 0), (0, 1.0, 0)]
    prefixes = {name.split(".text_model")[0].split(".encoder")[0] for name in clip.get_sd() if "encoder" in name}
    assert prefixes == {"clip_l.transformer", "clip_g.transformer", "t5xxl.transformer"}
    assert clip.cond_stage_model.t5xxl.transformer.config == TINY_T5
    assert clip.tokenizer.t5xxl.tokenizer("a cat") == {"input_ids": [3, 4, 1]}
    assert clip.tokenizer.t5xxl.embedding_size == 32


def test_an_encoder_without_tokens_is_left_out_where_the_family_can_do_without(files):
    clip = together(files, "l", "g", "t5")
    tokens = clip.tokenize("a cat")
    short = clip.encode_from_tokens({**tokens, "t5xxl": []})
    assert short.shape[1] == 77
    found = clip.encode_from_tokens(tokens, return_dict=True)
    assert found["pooled_output"].shape == (1, 16)


def test_the_layer_is_that_of_every_encoder(files):
    clip = together(files, "l", "g", "t5")
    clip.clip_layer(-1)
    changed = clip.encode("a cat")
    plain = together(files, "l", "g", "t5").encode("a cat")
    assert not torch.allclose(changed[:, :77], plain[:, :77])


def test_options_of_a_tokenizer_are_kept_by_the_clip_that_they_are_said_of(files):
    clip = together(files, "l", "t5")
    other = clip.clone()
    other.set_tokenizer_option("t5xxl_min_length", 5)
    other.set_tokenizer_option("t5xxl_pad_left", True)
    assert [token[0] for token in other.tokenize("cat")["t5xxl"][0]] == [0, 0, 0, 4, 1]
    assert len(clip.tokenize("cat")["t5xxl"][0]) == 77
    once = clip.tokenize("cat", tokenizer_options={"t5xxl_min_length": 0, "t5xxl_min_padding": 1})
    assert [token[0] for token in once["t5xxl"][0]] == [4, 1, 0]
    other.set_tokenizer_option("t5xxl_min_length", "long")
    with pytest.raises(BadInput, match="min_length"):
        other.tokenize("cat")


def test_a_file_may_say_how_its_tokenizer_lays_rows_out(tmp_path):  # seed-S24
    said = {"config": config(t5xxl={}, tokenizer={"pad_left": True, "t5xxl_min_length": 6})}
    save(tmp_path / "t5.safetensors", tiny_t5().state_dict(), {**said, "tokenizer_json": tiny_words().to_str()})
    clip = load_clip([tmp_path / "t5.safetensors"], "sd3", memory())
    assert [token[0] for token in clip.tokenize("cat")["t5xxl"][0]] == [0, 0, 0, 0, 4, 1]


def test_an_embedding_file_holds_vectors_for_each_encoder(files, tmp_path):
    folder = tmp_path / "embeddings"
    folder.mkdir()
    save(folder / "mine.safetensors", {"clip_l": torch.ones(1, 8), "clip_g": torch.full((2, 8), 2.0)})
    clip = load_clip([files["l"], files["g"]], "sd3", memory(), [folder])
    tokens = clip.tokenize("embedding:mine")
    assert [token[0].mean().item() for token in tokens["l"][0][1:2]] == [1.0]
    assert [token[0].mean().item() for token in tokens["g"][0][1:3]] == [2.0, 2.0]


def test_a_lora_reaches_every_encoder_by_its_number(files, tmp_path):
    clip = together(files, "l", "g", "t5")
    layer = "text_model_encoder_layers_0_mlp_fc1"
    names = {"lora_te1_" + layer: (16, 8), "lora_te2_" + layer: (16, 8),
             "lora_te3_encoder_block_1_layer_0_SelfAttention_q": (8, 32)}  # fmt: skip
    tensors = {}
    for name, (rows, columns) in names.items():
        tensors |= {f"{name}.lora_up.weight": torch.ones(rows, 1), f"{name}.lora_down.weight": torch.ones(1, columns)}
    save(tmp_path / "lora.safetensors", tensors)
    _, changed = load_lora(tmp_path / "lora.safetensors", None, clip, 1.0, 1.0)
    keys = ("clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
            "clip_g.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
            "t5xxl.transformer.encoder.block.1.layer.0.SelfAttention.q.weight")  # fmt: skip
    assert set(changed.patcher.patches) == set(keys)
    for key in keys:
        assert torch.allclose(changed.source.patched(key), clip.source.patched(key) + 1.0, atol=1e-6)


def test_each_encoder_is_saved_as_a_file_that_is_loaded_again(files, tmp_path):
    clip = together(files, "l", "g", "t5")
    paths = []
    for encoder in clip.encoders:
        paths.append(tmp_path / f"saved_{encoder.name}.safetensors")
        save_clip(paths[-1], clip, encoder, {"prompt": "{}"})
    assert "text_projection.weight" in CheckpointHeader.read(paths[1])
    again = load_clip(paths, "sd3", memory())
    assert torch.equal(again.encode("a (cat:1.2)"), clip.encode("a (cat:1.2)"))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_file_cast_to_eight_bits_encodes_what_its_numbers_say(files, tmp_path, dtype):
    state = {name: tensor.to(dtype) for name, tensor in tiny_t5().state_dict().items()}
    said = {"config": config(t5xxl={}), "tokenizer_json": tiny_words().to_str()}
    save(tmp_path / "small.safetensors", state, said)
    save(tmp_path / "wide.safetensors", {name: tensor.float() for name, tensor in state.items()}, said)
    small, wide = (load_clip([tmp_path / f"{name}.safetensors"], "sd3", memory()) for name in ("small", "wide"))
    assert torch.allclose(small.encode("a cat"), wide.encode("a cat"), atol=1e-5)


def test_a_checkpoint_of_two_encoders_has_the_names_that_its_readers_expect(files):
    clip = together(files, "l", "g", type="sdxl")
    tensors = clip_tensors(clip, families()["sdxl"])
    layer = "conditioner.embedders.1.model.transformer.resblocks.0"
    assert tensors[f"{layer}.attn.in_proj_weight"].shape == (24, 8)
    assert tensors["conditioner.embedders.1.model.text_projection"].shape == (8, 8)
    assert "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight" in tensors
    said = {"config": config(clip_l=CLIP_SAYS, clip_g={**CLIP_SAYS, "pad_token_id": 0})}
    header = CheckpointHeader.of(tensors, {**said, "tokenizer_json": tiny_bpe().to_str()})
    again = clip_in_checkpoint(header, families()["sdxl"].text, memory())
    assert torch.equal(again.encode("a (cat:1.2)"), clip.encode("a (cat:1.2)"))
    with pytest.raises(BadInput, match="holds no T5-XXL"):
        clip_tensors(together(files, "l", "t5", type="flux"), families()["sdxl"])


def test_a_checkpoint_without_one_of_its_encoders_has_none(files, caplog):
    clip = together(files, "l", "g", type="sdxl")
    tensors = {name: one for name, one in clip_tensors(clip, families()["sdxl"]).items() if "embedders.0" in name}
    assert clip_in_checkpoint(CheckpointHeader.of(tensors), families()["sdxl"].text, memory()) is None
    assert "holds clip_l without clip_g" in caplog.text


def test_files_that_no_family_takes_together_are_named_with_what_takes_them(files):
    with pytest.raises(BadInput) as caught:
        together(files, "l", "g", "t5", type="qwen_image")
    assert "l.safetensors is CLIP-L" in caught.value.why
    assert "t5.safetensors is T5-XXL" in caught.value.why
    assert "sd3" in caught.value.do
    with pytest.raises(BadInput, match="both hold CLIP-L"):
        together(files, "l", "l")


def test_a_kind_that_no_family_has_is_told_by_name(tmp_path):
    state = tiny_t5(own_bias=True).state_dict()
    save(tmp_path / "um.safetensors", state)
    with pytest.raises(BadInput, match="takes no such text encoders") as caught:
        load_clip([tmp_path / "um.safetensors"], "wan", memory())
    assert "Pile-T5" in caught.value.why


def test_tokens_of_another_text_encoder_are_refused(files, tmp_path):
    said = {"config": config(clip_l={**CLIP_SAYS}), "tokenizer_json": tiny_bpe().to_str()}
    save(tmp_path / "one.safetensors", tiny_clip().state_dict(), said)
    clip = load_clip([tmp_path / "one.safetensors"], "stable_diffusion", memory())
    with pytest.raises(BadInput, match="no tokens for CLIP-L"):
        clip.encode_from_tokens({"t5xxl": [[(3, 1.0)]]})


def test_every_kind_is_of_the_file_that_offers_it():
    assert {"clip_l", "clip_h", "clip_g", "t5xxl", "qwen25_7b"} <= set(encoders())
    assert all(name == kind.name for name, kind in encoders().items())
    assert Encoded(torch.zeros(1, 1, 1), None).extra == {}


def test_a_clip_h_without_its_last_layer_gives_the_same_layer_but_one():
    whole = tiny_clip(num_hidden_layers=24, hidden_act="gelu")
    cut = {name: value for name, value in whole.state_dict().items() if ".layers.23." not in name}
    kind, header = encoders()["clip_h"], CheckpointHeader.of(cut)
    assert kind.recognise(header)
    short = kind.network(kind.config(header.shapes(), CLIP_SAYS))
    short.load_state_dict(cut)
    assert short.depth == 24
    ids = torch.tensor([[516, 40, 41, 517]])
    with torch.inference_mode():
        found, expected = (network(ids, -2, final_norm=True).hidden for network in (short, whole))
        assert torch.equal(found, expected)
        assert torch.equal(short(ids, -1).hidden, short(ids, -2).hidden)
