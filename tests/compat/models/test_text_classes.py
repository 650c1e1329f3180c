"""Text encoders of several families under ComfyUI's classes and names."""

import pytest
import torch

from limner.errors import LimnerError
from limner.models.load_text import load_clip
from limner.models.text.t5 import T5Config
from limner.weights import save
from tests.models.checkpoints import memory, real_header, text_files
from tests.models.make import tiny_t5, tiny_words


@pytest.fixture(scope="module")
def files(base):
    return text_files(base)


def loaded(files, names, word):
    return load_clip([files[name] for name in names], word, memory())


def test_text_encoders_are_instances_of_their_familys_classes(base, files):
    from comfy.sdxl_clip import SDXLClipG, SDXLClipGTokenizer, SDXLClipModel, SDXLRefinerClipModel, SDXLTokenizer
    from comfy.text_encoders.flux import FluxClipModel, FluxTokenizer
    from comfy.text_encoders.qwen_image import QwenImageTEModel, QwenImageTokenizer
    from comfy.text_encoders.sd3_clip import SD3ClipModel, SD3Tokenizer, T5XXLModel, T5XXLTokenizer

    models = (SDXLClipModel, SDXLRefinerClipModel, SD3ClipModel, FluxClipModel, QwenImageTEModel)
    tokenizers = (SDXLTokenizer, SD3Tokenizer, FluxTokenizer, QwenImageTokenizer)
    for names, word, model, tokenizer in (
        (("l", "g"), "sdxl", SDXLClipModel, SDXLTokenizer),
        (("g",), "stable_diffusion", SDXLRefinerClipModel, None),
        (("l", "g", "t5"), "sd3", SD3ClipModel, SD3Tokenizer),
        (("l", "t5"), "flux", FluxClipModel, FluxTokenizer),
    ):
        clip = loaded(files, names, word)
        assert [kind for kind in models if isinstance(clip.cond_stage_model, kind)] == [model]
        assert [kind for kind in tokenizers if isinstance(clip.tokenizer, kind)] == ([tokenizer] if tokenizer else [])
    clip = loaded(files, ("l", "g", "t5"), "sd3")
    assert isinstance(clip.cond_stage_model.clip_g, SDXLClipG)
    assert isinstance(clip.tokenizer.clip_g, SDXLClipGTokenizer)
    assert isinstance(clip.cond_stage_model.t5xxl, T5XXLModel)
    assert isinstance(clip.tokenizer.t5xxl, T5XXLTokenizer)
    assert not isinstance(clip.cond_stage_model.clip_l, T5XXLModel)


def test_an_older_name_of_a_module_gives_the_same_classes(base):
    import comfy.sd3_clip
    import comfy.text_encoders.sd3_clip

    assert comfy.sd3_clip.SD3ClipModel is comfy.text_encoders.sd3_clip.SD3ClipModel
    with pytest.raises(LimnerError, match="put together by hand"):
        comfy.sd3_clip.sd3_clip(clip_l=True)
    with pytest.raises(LimnerError, match="put together by hand"):
        comfy.sd3_clip.T5XXLModel()


def test_one_encoder_of_several_is_asked_by_itself(base, files):
    clip = loaded(files, ("l", "g", "t5"), "sd3")
    tokens = clip.tokenize("a cat")
    cond, pooled = clip.cond_stage_model.t5xxl.encode_token_weights(tokens["t5xxl"])
    assert cond.shape == (1, 77, 32)
    assert pooled is None
    whole, both = clip.cond_stage_model.encode_token_weights(tokens)
    assert torch.equal(whole[:, 77:], cond)
    assert both.shape == (1, 16)
    states, none = clip.cond_stage_model.t5xxl.encode([[3, 4, 1], [4, 1, 0]])
    assert states.shape == (2, 3, 32)
    assert none is None
    assert clip.tokenizer.t5xxl.untokenize(tokens["t5xxl"][0])[:2] == [((3, 1.0), "a"), ((4, 1.0), "cat")]


def test_a_tokenizer_pads_a_row_at_its_own_side(base, files):  # seed-S24
    clip = loaded(files, ("l", "t5"), "flux")
    row = [(4, 1.0, 1)]
    clip.tokenizer.t5xxl.pad_tokens(row, 2)
    assert row == [(4, 1.0, 1), (0, 1.0, 0), (0, 1.0, 0)]
    clip.set_tokenizer_option("t5xxl_pad_left", True)
    clip.tokenizer.t5xxl.pad_tokens(row, 1)
    assert row[0] == (0, 1.0, 0)
    assert clip.tokenizer.t5xxl.pad_left


def test_loaders_of_packs_take_several_files_or_their_tensors(base, files):
    import comfy.sd
    import comfy.utils

    paths = [str(files[name]) for name in ("l", "t5")]
    clip = comfy.sd.load_clip(paths, clip_type=comfy.sd.CLIPType.FLUX)
    assert [part for part in ("clip_l", "t5xxl") if hasattr(clip.cond_stage_model, part)] == ["clip_l", "t5xxl"]
    tensors = [comfy.utils.load_torch_file(path) for path in paths]
    assert comfy.sd.t5xxl_detect(tensors) == {"dtype_t5": torch.float32}
    assert comfy.sd.llama_detect(tensors) == {}


def test_a_vocabulary_in_the_models_folder_is_found_for_packs_too(base):
    import comfy.sd

    folder = base / "models" / "tokenizers" / "t5"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(tiny_words().to_str())
    save(base / "bare.safetensors", tiny_t5().state_dict())
    clip = comfy.sd.load_clip([str(base / "bare.safetensors")], clip_type=comfy.sd.CLIPType.CHROMA)
    assert [token[0] for token in clip.tokenize("a cat")["t5xxl"][0]] == [3, 4, 1]


@pytest.mark.parametrize(
    ("header", "kind"),
    [("te-clip-h", "CLIP_H"), ("te-t5xxl", "T5_XXL"), ("te-t5-pile-xl", "T5_XL"), ("te-t5xxl-old", "T5_XXL_OLD"),
     ("te-umt5xxl", "T5_XXL"), ("te-qwen2.5-3b", "QWEN25_3B"), ("te-qwen2.5-vl-7b", "QWEN25_7B"),
     ("te-llama3.1-8b", "LLAMA3_8"), ("sd15-unet", None)],
)  # fmt: skip
def test_what_a_text_encoders_tensors_are_is_told(base, header, kind):
    from comfy.sd import TEModel, detect_te_model

    tensors = {name: entry.read() for name, entry in real_header(header).tensors.items()}
    assert detect_te_model(tensors) == (kind and TEModel[kind])


def test_networks_and_norms_are_importable_and_work(base):
    from comfy.text_encoders.llama import Qwen25_7BVLI, RMSNorm
    from comfy.text_encoders.t5 import T5, T5LayerNorm, T5Stack

    network = tiny_t5()
    assert isinstance(network, T5)
    assert isinstance(network.encoder, T5Stack)
    assert T5(T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).depth == 1
    assert Qwen25_7BVLI.__name__ == "Qwen25Text"
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert torch.allclose(T5LayerNorm(8)(x), expected, atol=1e-5)
    assert torch.allclose(RMSNorm(8, 1e-6, add=True)(x), 2 * expected, atol=1e-5)
