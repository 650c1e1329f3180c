"""Text: weights in prompts, tokens, rows, embeddings, conditioning."""

import pytest
import torch
from tokenizers import Tokenizer

from limner.errors import BadInput
from limner.models.text.clip import CLIPTextConfig
from limner.models.text.embeddings import vectors_of
from limner.models.text.encode import EncodeSettings, encode_weighted
from limner.models.text.vocabulary import clip_bpe, parse_tokenizer
from limner.models.text.weighting import parse_weights
from tests.models.make import TINY_CLIP, shapes_of, tiny_clip, tiny_tokenizer

CAT, DOG, START, END = 513, 515, 516, 517
SETTINGS = EncodeSettings(start=START, end=END, pad=END)


def ids(row):
    return [token[0] for token in row]


def test_ten_thousand_nested_parentheses_are_no_recursion_error():
    assert parse_weights("(" * 3000 + "a" + ":0.5)" + ")" * 2999) == [("a", 0.5)]


def test_a_weight_that_is_no_finite_number_is_text():
    assert parse_weights("(a:nan)") == [("a:nan", 1.1)]
    assert parse_weights("(a:inf)") == [("a:inf", 1.1)]


def test_a_row_is_start_words_end_padding():
    assert ids(tiny_tokenizer(max_length=6).rows("cat dog")[0]) == [START, CAT, DOG, END, END, END]


def test_another_padding_id_leaves_one_end_token():
    assert ids(tiny_tokenizer(max_length=6, pad=0).rows("cat")[0]) == [START, CAT, END, 0, 0, 0]


def test_padding_may_stand_before_the_prompt():  # seed-S24
    plain, left = (tiny_tokenizer(pad=0, max_length=8, pad_left=one).rows("cat dog")[0] for one in (False, True))
    assert ids(plain) == [START, CAT, DOG, END, 0, 0, 0, 0]
    assert left == [(0, 1.0, 0)] * 4 + plain[:4]
    shortest = tiny_tokenizer(pad=0, pad_to_max=False, min_length=6, pad_left=True).rows("cat")[0]
    assert ids(shortest) == [0, 0, 0, START, CAT, END]


def test_without_padding_a_row_is_as_long_as_its_words_or_the_least_length():
    assert ids(tiny_tokenizer(pad_to_max=False).rows("cat")[0]) == [START, CAT, END]
    assert ids(tiny_tokenizer(pad_to_max=False, min_length=5).rows("cat")[0]) == [START, CAT, END, END, END]


def test_a_long_text_goes_on_in_the_next_row_and_a_short_one_is_not_cut():
    tokenizer = tiny_tokenizer(max_length=10)
    long = tokenizer.rows("cat " * 10)
    assert [ids(row).count(CAT) for row in long] == [8, 2]
    short = tokenizer.rows("(cat cat cat cat cat:1.2)(dog dog dog dog dog:1.3)")
    assert [ids(row).count(CAT) for row in short] == [5, 0]
    assert [ids(row).count(DOG) for row in short] == [0, 5]


def test_an_embedding_stands_for_its_vectors_and_the_words_around_keep_their_weights():
    vectors = torch.eye(2, 8)
    rows = tiny_tokenizer(max_length=8).rows("(cat embedding:mine, dog:1.5)", {"mine": vectors}.get)
    tokens = rows[0]
    assert ids(tokens)[:2] == [START, CAT]
    assert torch.equal(torch.stack([tokens[2][0], tokens[3][0]]), vectors)
    assert [token[1] for token in tokens] == [1.0, 1.5, 1.5, 1.5, 1.5, 1.5, 1.0, 1.0]


def test_an_unknown_embedding_is_left_out_with_a_warning(caplog):
    rows = tiny_tokenizer(max_length=5).rows("cat embedding:none dog", {}.get)
    assert ids(rows[0]) == [START, CAT, DOG, END, END]
    assert "embedding:none does not exist" in caplog.text


def test_a_tokenizer_comes_back_from_its_json_as_a_checkpoint_carries_it():
    bpe = clip_bpe([("c", "a"), ("ca", "t</w>")])
    again = parse_tokenizer(bpe.to_str(), "a checkpoint")
    assert isinstance(again, Tokenizer)
    assert again.encode("A cat", add_special_tokens=False).ids == bpe.encode("A cat", add_special_tokens=False).ids
    with pytest.raises(BadInput, match="is not a tokenizer"):
        parse_tokenizer("{}", "a checkpoint")


def test_embedding_files_of_every_layout_give_their_vectors():
    vectors = torch.ones(2, 8)
    assert vectors_of({"clip_g": torch.zeros(1, 4), "clip_l": vectors}, "clip_l") is vectors
    assert vectors_of({"emb_params": vectors}, "clip_l") is vectors
    assert vectors_of({"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}}, "clip_l") is vectors
    assert vectors_of([{"name": "x"}, {"emb": vectors}], "clip_l") is vectors
    assert vectors_of({}, "clip_l") is None


def test_the_config_that_shapes_tell_is_the_one_the_encoder_was_made_with():
    config = CLIPTextConfig.from_state(shapes_of(tiny_clip()), {"num_attention_heads": 2, "eos_token_id": 517})
    assert config == TINY_CLIP
    projected = shapes_of(tiny_clip(projection_dim=5))
    assert CLIPTextConfig.from_state(projected, {"num_attention_heads": 2}).projection_dim == 5


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"hidden_size": 768}, "hidden_size"),
        ({"num_hidden_layers": 12}, "num_hidden_layers"),
        ({"num_attention_heads": 3}, "attention heads"),
        ({"hidden_act": "relu"}, "hidden_act"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(said, complaint):
    with pytest.raises(BadInput, match=complaint):
        CLIPTextConfig.from_state(shapes_of(tiny_clip()), said)


def test_a_token_sees_only_what_is_before_it():
    first = torch.tensor([[START, CAT, END, END]])
    second = torch.tensor([[START, CAT, DOG, END]])
    with torch.inference_mode():
        assert torch.allclose(tiny_clip()(first).last[:, :2], tiny_clip()(second).last[:, :2], atol=1e-6)


def test_an_attention_mask_hides_padding_from_later_tokens():
    tokens = torch.tensor([[START, CAT, END, 0, 0], [START, CAT, END, 7, 0]])
    mask = torch.tensor([[1, 1, 1, 0, 1]] * 2)
    with torch.inference_mode():
        plain, masked = tiny_clip()(tokens).last, tiny_clip()(tokens, attention_mask=mask).last
    assert not torch.allclose(plain[0, 4], plain[1, 4])
    assert torch.allclose(masked[0, 4], masked[1, 4], atol=1e-6)


def test_a_row_that_is_too_long_and_a_layer_that_is_not_there_are_refused():
    with pytest.raises(BadInput, match="knows 77 positions"):
        tiny_clip()(torch.zeros(1, 78, dtype=torch.int64))
    with pytest.raises(BadInput, match="no layer -4"):
        tiny_clip()(torch.tensor([[START, END]]), -4)


def test_every_parameter_gets_a_gradient():
    clip = tiny_clip(projection_dim=4)
    out = clip(torch.tensor([[START, CAT, END]]))
    (out.last.square().mean() + out.projected.square().mean()).backward()
    assert [name for name, parameter in clip.named_parameters() if parameter.grad is None] == []


def encode(prompt, settings=SETTINGS, clip=None, **more):
    rows = tiny_tokenizer(max_length=8).rows(prompt, {"mine": torch.ones(8), "wide": torch.ones(9)}.get)
    with torch.inference_mode():
        return encode_weighted(clip or tiny_clip(), rows, settings, **more)


def test_a_weight_moves_a_token_away_from_the_empty_prompt():
    plain, empty = encode("cat").cond, encode("").cond
    assert torch.allclose(encode("(cat:1.5)").cond[:, 1], (plain + (plain - empty) * 0.5)[:, 1], atol=1e-6)
    assert torch.allclose(encode("(cat:0)").cond[:, 1], empty[:, 1], atol=1e-6)
    assert torch.allclose(encode("(cat:1.5)").cond[:, 0], plain[:, 0], atol=1e-6)


def test_rows_stand_one_behind_the_other_and_the_first_is_pooled():
    long = encode("cat " * 10)
    assert long.cond.shape == (1, 16, 8)
    assert torch.allclose(long.pooled, encode("cat " * 6).pooled, atol=1e-6)


def test_more_layers_back_than_there_are_mean_the_last_one():
    far = EncodeSettings(layer=-24, start=START, end=END, pad=END)
    assert torch.equal(encode("cat", far).cond, encode("cat").cond)


def test_an_embedding_takes_its_tokens_place_and_one_of_another_width_is_left_out(caplog):
    clip = tiny_clip()
    clip.text_model.embeddings.token_embedding.weight.data[CAT] = 1.0
    assert torch.allclose(encode("embedding:mine dog", clip=clip).cond, encode("cat dog", clip=clip).cond, atol=1e-6)
    assert torch.equal(encode("embedding:wide dog").cond, encode("dog").cond)
    assert "another text encoder" in caplog.text


def test_conditioning_is_float32_whatever_the_computation_is_in():
    found = encode("cat", dtype=torch.bfloat16)
    assert found.cond.dtype == found.pooled.dtype == torch.float32
    assert torch.allclose(found.cond, encode("cat").cond, atol=0.1)
