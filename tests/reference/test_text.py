"""Text encoders agree with the transformers library's on the same weights."""

import pytest
import torch

from limner.models.text.clip import CLIPText, CLIPTextConfig
from limner.models.text.encode import EncodeSettings, encode_weighted, not_padding
from limner.models.text.qwen25 import Qwen25Config, Qwen25Text
from limner.models.text.qwen25_vision import patches_of
from limner.models.text.t5 import T5Config, T5Text
from tests.reference.make import apart

transformers = pytest.importorskip("transformers", reason="the reference is the transformers library")

CLOSE = 1e-4


def shuffled(network):
    """The network with seeded weights that all matter, norms included."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * (0.2 if parameter.ndim > 1 else 0.5) + 0.1
    return network.eval()


def ours(network, theirs, rename=lambda name: name):
    """Our network with the weights of theirs; what ours lacks is tied to what it has."""
    state = {rename(name): tensor for name, tensor in theirs.state_dict().items()}
    wanted = network.state_dict()
    network.load_state_dict({name: state[name] for name in wanted})
    return network.eval()


@torch.inference_mode()
@pytest.mark.parametrize("hidden_act", ["gelu", "quick_gelu"])
def test_clip(hidden_act):
    sizes = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
             "num_attention_heads": 4, "max_position_embeddings": 12, "projection_dim": 20}  # fmt: skip
    config = transformers.CLIPTextConfig(**sizes, hidden_act=hidden_act, eos_token_id=7, bos_token_id=5, pad_token_id=0)
    theirs = shuffled(transformers.CLIPTextModelWithProjection(config))
    network = ours(CLIPText(CLIPTextConfig(**sizes, hidden_act=hidden_act, eos_token_id=7)), theirs)
    ids = torch.tensor([[5, 10, 11, 7, 0, 0], [5, 12, 7, 0, 0, 0]])
    expected = theirs(ids, output_hidden_states=True)
    found = network(ids, -2)
    assert apart(found.last, expected.last_hidden_state) < CLOSE
    assert apart(found.hidden, expected.hidden_states[-2]) < CLOSE
    assert apart(found.projected, expected.text_embeds) < CLOSE


@torch.inference_mode()
@pytest.mark.parametrize("left", [False, True], ids=["padded right", "padded left"])
def test_clip_with_padding_masked(left):  # seed-S24
    sizes = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
             "num_attention_heads": 4, "max_position_embeddings": 12}  # fmt: skip
    config = transformers.CLIPTextConfig(**sizes, hidden_act="gelu", eos_token_id=7, bos_token_id=5, pad_token_id=0)
    theirs = shuffled(transformers.CLIPTextModel(config))
    network = CLIPText(CLIPTextConfig(**sizes, hidden_act="gelu", eos_token_id=7))
    ours(network, theirs, lambda name: name if name.startswith("text_model.") else f"text_model.{name}")
    row = [0, 0, 5, 10, 11, 7] if left else [5, 10, 11, 7, 0, 0]
    ids = torch.tensor([row])
    mask = not_padding(ids, 7, 0)
    expected = theirs(ids, attention_mask=mask.long()).last_hidden_state
    settings = EncodeSettings(masked=True, start=5, end=7, pad=0)
    found = encode_weighted(network, [[(token, 1.0) for token in row]], settings).cond
    assert apart(found[mask], expected[mask]) < CLOSE


@torch.inference_mode()
@pytest.mark.parametrize("left", [False, True], ids=["padded right", "padded left"])
@pytest.mark.parametrize(
    ("kind", "act", "own_bias"),
    [("T5", "gated-gelu", False), ("T5", "relu", False), ("UMT5", "gated-gelu", True)],
)
def test_t5(kind, act, own_bias, left):  # seed-S24
    sizes = {"vocab_size": 40, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4}
    config = getattr(transformers, f"{kind}Config")(**sizes, feed_forward_proj=act, dropout_rate=0.0)
    theirs = shuffled(getattr(transformers, f"{kind}EncoderModel")(config))
    gated = act != "relu"
    network = T5Text(
        T5Config(**sizes, is_gated_act=gated, dense_act_fn="gelu_new" if gated else "relu", own_bias=own_bias)
    )
    ours(network, theirs)
    text = list(range(3, 38)) * 5  # longer than the farthest distance that has a bias of its own
    row = [0, 0, 0, *text, 1] if left else [*text, 1, 0, 0, 0]
    ids = torch.tensor([row])
    mask = not_padding(ids, 1, 0)
    expected = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    found = encode_weighted(network, [[(token, 1.0) for token in row]], EncodeSettings(masked=True, end=1, pad=0)).cond
    assert apart(found[mask], expected[mask]) < CLOSE
    assert apart(network(ids).last, theirs(input_ids=ids).last_hidden_state) < CLOSE


def qwen():
    """Theirs and ours, with the same weights."""
    text = {"vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 40, "num_heads": 2, "out_hidden_size": 32,
              "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1], "spatial_merge_size": 2,
              "temporal_patch_size": 2}  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": rope, "tie_word_embeddings": False}, vision_config=vision,
        image_token_id=100, video_token_id=101, vision_start_token_id=98, vision_end_token_id=99,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    theirs = shuffled(transformers.Qwen2_5_VLModel(config))

    def named(name):
        return name.replace("language_model.", "model.") if name.startswith("language_model.") else name

    shapes = {named(name): tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    said = {"head_dim": 8, "rope_dims": (1, 1, 2), "vision_config": {"num_heads": 2, "full_blocks": [1]}}
    return theirs, ours(Qwen25Text(Qwen25Config.from_state(shapes, said)), theirs, named)


@torch.inference_mode()
@pytest.mark.parametrize("left", [False, True], ids=["padded right", "padded left"])
def test_qwens_language_model(left):  # seed-S24
    theirs, network = qwen()
    row = [90, 90, 90, 5, 6, 7, 8] if left else [5, 6, 7, 8, 90, 90, 90]
    ids = torch.tensor([row])
    mask = not_padding(ids, None, 90)
    expected = theirs.language_model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
    for layer, states in ((None, expected.last_hidden_state), (-2, expected.hidden_states[-2])):
        settings = EncodeSettings(layer=layer, final_norm=False, masked=True, pad=90)
        found = encode_weighted(network, [[(token, 1.0) for token in row]], settings).cond
        assert apart(found[mask], states[mask]) < CLOSE


@torch.inference_mode()
def test_qwens_vision_tower_and_a_prompt_with_two_pictures():
    theirs, network = qwen()
    pictures = [torch.rand(1, 130, 260, 3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    pictures[1] = pictures[1][:, :, :100]
    cut = [patches_of(picture, network.visual.config) for picture in pictures]
    pixels, grids = torch.cat([patches for patches, _ in cut]), torch.tensor([grid for _, grid in cut])
    seen = [network.see(picture) for picture in pictures]
    row = [5, 98, (pictures[0], 0), 99, 6, 7, 98, (pictures[1], 1), 99, 8]
    tokens, ids = [], []
    for one in row:
        if isinstance(one, tuple):
            picture, number = one
            tokens.append(({"type": "image", "data": picture}, 1.0))
            ids += [100] * len(seen[number].vectors)
        else:
            tokens.append((one, 1.0))
            ids.append(one)
    ids = torch.tensor([ids])
    kinds = (ids == 100).int()
    expected = theirs(
        input_ids=ids, pixel_values=pixels, image_grid_thw=grids, mm_token_type_ids=kinds,
        attention_mask=torch.ones_like(ids),
    ).last_hidden_state  # fmt: skip
    found = encode_weighted(network, [tokens], EncodeSettings(pad=90)).cond
    assert apart(found, expected) < CLOSE
