from dataclasses import replace

import pytest
import torch

from limner.errors import BadInput
from limner.models.convert import unet_aliases
from limner.models.detect import detect
from limner.models.inspect import describe, stripped
from limner.models.load import load_checkpoint, load_diffusion_model
from limner.models.load_text import load_clip
from limner.models.load_vae import load_taesd, load_vae
from limner.models.vae.taesd import TAESD, TAESDConfig
from limner.weights import CheckpointHeader, LazyTensor, save
from tests.models.checkpoints import checkpoint, memory, metadata, real_header, tensors
from tests.models.make import tiny_clip, tiny_tokenizer, tiny_unet, tiny_vae

WIDE = {"model_channels": 32, "norm_groups": 32, "num_heads": 8}


def prediction(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, model.config.out_channels, 8, 8, generator=generator)
    context = torch.randn(1, 5, model.config.context_dim, generator=generator)
    conds = model.extra_conds(cross_attn=context, noise=x)
    extra = {name: getattr(value, "cond", value) for name, value in conds.items() if name != "c_crossattn"}
    return model.apply_model(x, torch.tensor([2.0]), c_crossattn=context, **extra)


def test_a_checkpoint_gives_its_three_parts(tmp_path):
    model, clip, vae = load_checkpoint(checkpoint(tmp_path), memory())
    assert prediction(model).shape == (1, 4, 8, 8)
    assert clip.encode("cat").shape == (1, 77, 8)
    assert vae.decode(torch.zeros(1, 4, 3, 5)).shape == (1, 6, 10, 3)


def test_the_network_computes_what_it_did_before_it_was_saved(tmp_path):
    model = load_diffusion_model(checkpoint(tmp_path), memory())
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 6)
    with model.loaded() as network:
        found = network(x, torch.tensor([3]), context)
    assert torch.allclose(found, tiny_unet()(x, torch.tensor([3]), context), atol=1e-5)


def test_the_text_encoder_uses_the_tokenizer_of_the_file(tmp_path):
    clip = load_checkpoint(checkpoint(tmp_path), memory()).clip
    assert clip.tokenize("cat dog") == {"l": [[token[:2] for token in row] for row in tiny_tokenizer().rows("cat dog")]}


def test_a_pickled_checkpoint_loads_like_a_safetensors_one(tmp_path):
    contents = {name: value for name, value in tensors(**WIDE).items() if "diffusion_model" in name}
    torch.save({"state_dict": contents, "epoch": 1}, tmp_path / "tiny.ckpt")  # no metadata: all by the family's rule
    save(tmp_path / "tiny.safetensors", contents)
    pickled = load_diffusion_model(tmp_path / "tiny.ckpt", memory())
    plain = load_diffusion_model(tmp_path / "tiny.safetensors", memory())
    assert torch.equal(prediction(pickled), prediction(plain))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_of_any_dtype_compute_in_the_dtype_of_the_settings(tmp_path, dtype):
    model = load_diffusion_model(checkpoint(tmp_path, {n: t.to(dtype) for n, t in tensors().items()}), memory())
    assert prediction(model).dtype == torch.float32
    assert model.model_dtype() == torch.float32


@pytest.mark.parametrize("name", ["sd15", "sd15-inpaint", "sd15-unet"])
def test_published_stable_diffusion_1_files_are_recognised(name):
    assert detect(real_header(name)).family.name == "sd1"


def test_the_published_files_configs_are_read_off_their_shapes():
    match = detect(real_header("sd15"))
    config = match.family.infer_config(match.diffusion, {})
    assert (config.model_channels, config.context_dim, config.num_heads, config.in_channels) == (320, 768, 8, 4)


@pytest.mark.parametrize(("channels", "kinds"), [(4, ()), (9, ("mask", "masked_image")), (8, ("image",))])
def test_input_channels_tell_inpainting_and_editing(tmp_path, channels, kinds):
    model = load_diffusion_model(checkpoint(tmp_path, tensors(in_channels=channels)), memory())
    assert model.family.concat(model.config) == kinds
    assert prediction(model).shape == (1, 4, 8, 8)


def test_an_empty_v_pred_tensor_makes_it_predict_velocity(tmp_path):
    model = load_diffusion_model(checkpoint(tmp_path, tensors() | {"v_pred": torch.zeros(0)}), memory())
    plain = load_diffusion_model(checkpoint(tmp_path, name="plain.safetensors"), memory())
    assert type(model.sampling.prediction) is not type(plain.sampling.prediction)
    assert model.sampling.sigma_max == plain.sampling.sigma_max


def test_zero_terminal_snr_reaches_further(tmp_path):
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    model = load_diffusion_model(checkpoint(tmp_path, tensors() | marks), memory())
    assert model.sampling.sigma_max > 4000


@pytest.mark.parametrize("prefix", ["", "model.", "model.model.", "net.", "model.diffusion_model."])
def test_a_bare_diffusion_model_is_found_under_any_prefix(tmp_path, prefix):
    contents = {prefix + name: value for name, value in tiny_unet().state_dict().items()}
    assert prediction(load_diffusion_model(checkpoint(tmp_path, contents), memory())).shape == (1, 4, 8, 8)


def test_a_diffusers_unet_is_the_same_network(tmp_path):
    unet = tiny_unet()
    state = unet.state_dict()
    aliases = unet_aliases(tuple(state), unet.config.num_res_blocks)
    renamed = {}
    for alias, name in aliases.items():
        for suffix in (".weight", ".bias"):
            if name + suffix in state and ".attentions." not in alias.rpartition(".")[2]:
                renamed[alias + suffix] = state[name + suffix]
    renamed = {name: value for name, value in renamed.items() if not name.startswith(("add_embedding", "class_emb"))}
    model = load_diffusion_model(checkpoint(tmp_path, renamed), memory())
    plain = load_diffusion_model(checkpoint(tmp_path, name="plain.safetensors"), memory())
    assert torch.allclose(prediction(model), prediction(plain), atol=1e-5)


def test_missing_tensors_are_named(tmp_path):
    contents = tensors()
    del contents["model.diffusion_model.output_blocks.0.0.out_layers.3.bias"]
    model = load_diffusion_model(checkpoint(tmp_path, contents), memory())
    with pytest.raises(BadInput, match=r"output_blocks\.0\.0\.out_layers\.3\.bias"):
        prediction(model)


def test_averaged_weights_and_schedules_of_training_are_passed_over(tmp_path):
    extra = {
        "model_ema.diffusion_model1weight": torch.zeros(1),
        "betas": torch.zeros(1000),
        "global_step": torch.tensor(1),
    }
    assert load_checkpoint(checkpoint(tmp_path, tensors() | extra), memory()).clip is not None


def test_a_checkpoint_without_text_encoder_or_vae_says_so_when_it_is_used(tmp_path):
    contents = {name: value for name, value in tensors().items() if "diffusion_model" in name}
    found = load_checkpoint(checkpoint(tmp_path, contents), memory())
    assert found.clip is None
    with pytest.raises(BadInput, match="no VAE"):
        found.vae.decode(torch.zeros(1, 4, 2, 2))


def test_text_encoders_of_old_files_lack_text_model(tmp_path):
    contents = {name.replace("transformer.text_model.", "transformer."): value for name, value in tensors().items()}
    clip = load_checkpoint(checkpoint(tmp_path, contents), memory()).clip
    plain = load_checkpoint(checkpoint(tmp_path, name="plain.safetensors"), memory()).clip
    assert torch.equal(clip.encode("a cat"), plain.encode("a cat"))


def test_a_text_encoder_in_open_clips_layout_is_the_same(tmp_path):
    state = tiny_clip().state_dict()
    renamed = {"positional_embedding": state["text_model.embeddings.position_embedding.weight"],
               "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
               "ln_final.weight": state["text_model.final_layer_norm.weight"],
               "ln_final.bias": state["text_model.final_layer_norm.bias"]}  # fmt: skip
    for n in range(3):
        here, there = f"text_model.encoder.layers.{n}.", f"transformer.resblocks.{n}."
        for kind in ("weight", "bias"):
            parts = [state[f"{here}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            renamed[f"{there}attn.in_proj_{kind}"] = torch.cat(parts)
            for ours, theirs in (("self_attn.out_proj", "attn.out_proj"), ("mlp.fc1", "mlp.c_fc"),
                                 ("mlp.fc2", "mlp.c_proj"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2")):  # fmt: skip
                renamed[f"{there}{theirs}.{kind}"] = state[f"{here}{ours}.{kind}"]
    clip = load_clip([checkpoint(tmp_path, renamed)], "stable_diffusion", memory())
    plain = load_checkpoint(checkpoint(tmp_path, name="plain.safetensors"), memory()).clip
    assert torch.allclose(clip.encode("a cat"), plain.encode("a cat"), atol=1e-6)


def test_a_vae_is_found_bare_and_inside_a_checkpoint(tmp_path):
    latent = torch.randn(1, 4, 3, 3)
    inside = load_vae(checkpoint(tmp_path), memory()).decode(latent)
    bare = load_vae(checkpoint(tmp_path, tiny_vae().state_dict(), "bare.safetensors"), memory()).decode(latent)
    assert torch.equal(inside, bare)


def test_the_two_files_of_a_tiny_autoencoder_make_one(tmp_path):
    state = TAESD(TAESDConfig(width=8)).state_dict()
    for half in ("encoder", "decoder"):
        prefix = f"taesd_{half}."
        part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        save(tmp_path / f"taesd_{half}.safetensors", part)
    files = [tmp_path / f"taesd_{half}.safetensors" for half in ("encoder", "decoder")]
    vae = load_taesd(*files, 0.18215, 0.0, memory())
    assert vae.decode(vae.encode(torch.rand(1, 16, 16, 3))).shape == (1, 16, 16, 3)


@pytest.mark.parametrize("loader", [load_diffusion_model, load_vae, lambda path, m: load_clip([path], "sd3", m)])
def test_a_file_of_another_kind_is_refused(tmp_path, loader):
    save(tmp_path / "x.safetensors", {"some.weight": torch.zeros(2)})
    with pytest.raises(BadInput) as caught:
        loader(tmp_path / "x.safetensors", memory())
    assert caught.value.do


def test_a_config_that_contradicts_the_shapes_is_refused(tmp_path):
    said = metadata() | {"config": '{"unet": {"model_channels": 16, "norm_groups": 4, "num_heads": 2}}'}
    save(tmp_path / "x.safetensors", tensors(), said)
    with pytest.raises(BadInput, match="model_channels"):
        load_diffusion_model(tmp_path / "x.safetensors", memory())


@pytest.mark.parametrize("config", ["{", "[]", '{"unet": 5}'])
def test_a_config_that_is_no_object_is_refused(tmp_path, config):
    save(tmp_path / "x.safetensors", tensors(), {"config": config})
    with pytest.raises(BadInput, match="config"):
        load_diffusion_model(tmp_path / "x.safetensors", memory())


def test_inspect_names_family_parts_and_dtypes(tmp_path):
    text = "\n".join(describe(CheckpointHeader.read(checkpoint(tmp_path))))
    for word in ("Stable Diffusion 1", "F32", "text encoder clip_l", "VAE under 'first_stage_model.'", "config"):
        assert word in text


def test_a_stripped_header_is_recognised_like_the_file(tmp_path):
    header = CheckpointHeader.read(checkpoint(tmp_path))
    again = CheckpointHeader.unstripped(stripped(header))
    assert again.shapes() == header.shapes()
    assert detect(again).family.name == "sd1"


def test_detection_reads_no_tensor(tmp_path):
    def forbidden():
        raise AssertionError

    header = CheckpointHeader.read(checkpoint(tmp_path))
    lazy = {name: LazyTensor(entry.dtype, entry.shape, forbidden) for name, entry in header.tensors.items()}
    assert detect(replace(header, tensors=lazy)).family.name == "sd1"
