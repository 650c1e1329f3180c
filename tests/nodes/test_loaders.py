"""Loaders over folders as people have them."""

import pytest
import torch

from limner.engine.files import StoreFiles
from limner.errors import BadInput, NotFound
from limner.models.convert import unet_modules
from limner.models.vae.taesd import TAESD, TAESDConfig
from limner.nodes import family_conditioning, loaders
from limner.sampling.prediction import V
from limner.store.folders import ModelFolders
from limner.weights import save
from tests.models.checkpoints import checkpoint, memory, metadata, text_files
from tests.models.make import tiny_clip, tiny_unet, tiny_vae
from tests.nodes.make import run_in


@pytest.fixture
def run(tmp_path):
    made = run_in(tmp_path)
    made.store.folders = ModelFolders.open(tmp_path, tmp_path / "output")
    object.__setattr__(made, "memory", memory())
    return made


def offered(run, node, name):
    port = node.schema.input(name)
    return list(StoreFiles(run.store).choices(port))


def accepted(run, node, name, value):
    return StoreFiles(run.store).accepts(node.schema.input(name), value)


def place(run, key, name):
    path = run.store.folders.roots(key)[0] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_pixel_autoencoder_gives_pictures_back(run):
    vae = loaders.load_vae_file(run, "pixel_space")
    picture = torch.rand(2, 5, 7, 3, generator=torch.Generator().manual_seed(0))
    latent = vae.encode(picture)
    assert latent.shape == (2, 3, 5, 7)
    assert torch.allclose(latent, picture.movedim(-1, 1) * 2 - 1, atol=1e-6)
    assert torch.allclose(vae.decode(latent), picture, atol=1e-6)
    assert vae.spacial_compression_encode() == 1


def small(run, name="taesd"):
    torch.manual_seed(0)
    network = TAESD(TAESDConfig(width=8))
    for half in ("encoder", "decoder"):
        prefix = f"taesd_{half}."
        part = {
            key.removeprefix(prefix): value for key, value in network.state_dict().items() if key.startswith(prefix)
        }
        save(place(run, "vae_approx", f"{name}_{half}.safetensors"), part)
    return network


def test_small_autoencoders_are_offered_when_both_halves_are_there(run):
    assert offered(run, loaders.load_vae_file, "vae_name") == ["pixel_space"]
    save(place(run, "vae_approx", "taesdxl_decoder.safetensors"), {"a": torch.zeros(1)})
    small(run)
    assert offered(run, loaders.load_vae_file, "vae_name") == ["taesd", "pixel_space"]
    assert accepted(run, loaders.load_vae_file, "vae_name", "taesd")
    assert not accepted(run, loaders.load_vae_file, "vae_name", "taesdxl")


def test_a_small_autoencoder_works_on_latents_of_the_large_one(run):
    network = small(run)
    vae = loaders.load_vae_file(run, "taesd")
    latent = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        network.vae_scale.fill_(0.18215)
        network.vae_shift.fill_(0.0)
        expected = ((network.decode(latent) + 1) / 2).clamp(0, 1).movedim(1, -1)
    assert torch.allclose(vae.decode(latent), expected, atol=1e-5)


def test_shipped_configurations_are_offered_like_files(run):
    names = offered(run, loaders.load_configured_checkpoint, "config_name")
    assert "v1-inference.yaml" in names
    assert len(names) == 11


@pytest.mark.parametrize(
    ("config", "velocity", "layer"),
    [
        ("v1-inference.yaml", False, None),
        ("v1-inference_clip_skip_2.yaml", False, -2),
        ("anything_v3.yaml", False, -2),
        ("v2-inference-v.yaml", True, None),
    ],
)
def test_a_configuration_says_what_is_predicted_and_which_layer_is_used(run, config, velocity, layer):
    checkpoint(place(run, "checkpoints", "x").parent)
    model, clip, vae = loaders.load_configured_checkpoint(run, config, "tiny.safetensors")
    assert isinstance(model.sampling.prediction, V) is velocity
    assert clip.layer_idx == layer
    assert vae.latent_channels == 4


@pytest.mark.parametrize(("text", "layer"), [("layer: penultimate", -2), ("layer: hidden\n        layer_idx: 11", 11)])
def test_a_configuration_of_ones_own_comes_first(run, text, layer):
    checkpoint(place(run, "checkpoints", "x").parent)
    content = f"model:\n  params:\n    cond_stage_config:\n      params:\n        {text}\n"
    place(run, "configs", "v1-inference.yaml").write_text(content)
    assert loaders.load_configured_checkpoint(run, "v1-inference.yaml", "tiny.safetensors").CLIP.layer_idx == layer


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[", "not YAML"),
        ("model: 3", "no configuration"),
        ("model: {params: {cond_stage_config: {params: {layer: hidden, layer_idx: x}}}}", "layer_idx"),
    ],
)
def test_what_is_no_configuration_is_refused(run, text, what):
    checkpoint(place(run, "checkpoints", "x").parent)
    place(run, "configs", "mine.yaml").write_text(text)
    with pytest.raises(BadInput, match=what):
        loaders.load_configured_checkpoint(run, "mine.yaml", "tiny.safetensors")


def diffusers_names(network):
    """The tensors of a tiny UNet as diffusers calls them."""
    modules = unet_modules((1, 1))
    found = {}
    for name, value in network.state_dict().items():
        for diffusers, ours in modules.items():
            place_ = ours.format(1) if f"{ours.format(1)}." in name else ours.format(2)
            if name.startswith(f"{place_}."):
                found[diffusers + name[len(place_) :]] = value
    return found


def test_a_folder_of_the_diffusers_library_is_loaded_by_its_parts(run):
    index = place(run, "diffusers", "sets/mine/model_index.json")
    index.write_text("{}")
    for part, network, file in (
        ("unet", tiny_unet(), "diffusion_pytorch_model.safetensors"),
        ("text_encoder", tiny_clip(), "model.fp16.safetensors"),
        ("vae", tiny_vae(), "diffusion_pytorch_model.fp16.safetensors"),
    ):
        tensors = diffusers_names(network) if part == "unet" else dict(network.state_dict())
        (index.parent / part).mkdir()
        save(index.parent / part / file, tensors, metadata())
    assert offered(run, loaders.load_diffusers_folder, "model_path") == ["sets/mine"]
    assert accepted(run, loaders.load_diffusers_folder, "model_path", "sets/mine")
    model, clip, vae = loaders.load_diffusers_folder(run, "sets/mine")
    assert torch.equal(model.source.patched("out.2.weight"), tiny_unet().state_dict()["out.2.weight"])
    assert len(clip.source.tensors) == len(tiny_clip().state_dict())
    assert vae.latent_channels == 4


def test_a_folder_with_two_text_encoders_gives_both(run):
    folder = place(run, "diffusers", "mine/model_index.json").parent
    (folder / "model_index.json").write_text("{}")
    texts = text_files(folder)
    for part, network in (("unet", tiny_unet()), ("vae", tiny_vae())):
        (folder / part).mkdir()
        save(folder / part / "diffusion_pytorch_model.safetensors", network.state_dict(), metadata())
    for part, file in (("text_encoder", "l"), ("text_encoder_2", "g")):
        (folder / part).mkdir()
        texts[file].rename(folder / part / "model.safetensors")
    clip = loaders.load_diffusers_folder(run, "mine")[1]
    assert [encoder.name for encoder in clip.encoders] == ["clip_l", "clip_g"]
    assert clip.encode("cat").shape == (1, 77, 16)
    (folder / "text_encoder" / "model.safetensors").unlink()
    (folder / "text_encoder").rmdir()
    refiner = loaders.load_diffusers_folder(run, "mine")[1]
    assert [encoder.name for encoder in refiner.encoders] == ["clip_g"]


def test_a_folder_that_lacks_a_part_says_which(run):
    place(run, "diffusers", "mine/model_index.json").write_text("{}")
    with pytest.raises(NotFound, match="unet"):
        loaders.load_diffusers_folder(run, "mine")


def test_several_text_encoders_are_loaded_by_one_node(run):
    text_files(place(run, "text_encoders", "l").parent)
    names = ("l.safetensors", "g.safetensors", "t5.safetensors")
    three = loaders.load_three_clip_files(run, *names)
    two = loaders.load_two_clip_files(run, names[2], names[0], "flux")
    one = loaders.load_clip_file(run, names[2], "chroma")
    assert [encoder.name for encoder in three.encoders] == ["clip_l", "clip_g", "t5xxl"]
    assert two.encode("a cat").shape == (1, 256, 32)
    assert one.encode("a cat").shape == (1, 3, 32)
    with pytest.raises(BadInput, match="type sdxl takes no such text encoders"):
        loaders.load_two_clip_files(run, names[0], names[2], "sdxl")


def test_t5s_rows_are_laid_out_as_a_node_says(run):
    text_files(place(run, "text_encoders", "l").parent)
    clip = loaders.load_two_clip_files(run, "l.safetensors", "t5.safetensors", "flux")
    changed = family_conditioning.t5_tokenizer_options(clip, min_padding=2, min_length=4)
    assert [token[0] for token in changed.tokenize("cat")["t5xxl"][0]] == [4, 1, 0, 0]
    assert [token[0] for token in changed.tokenize("a cat a dog")["t5xxl"][0]] == [3, 4, 3, 5, 1, 0, 0]
    assert len(changed.tokenize("cat")["l"][0]) == 77
    assert len(clip.tokenize("cat")["t5xxl"][0]) == 256


def test_prompts_of_families_with_entries_or_texts_of_their_own(run):
    text_files(place(run, "text_encoders", "l").parent)
    one = loaders.load_clip_file(run, "t5.safetensors", "chroma")
    (cond, entries), = family_conditioning.encode_for_pixart_alpha(640, 512, text="a cat", clip=one)  # fmt: skip
    assert (entries["width"], entries["height"]) == (640, 512)
    assert torch.equal(cond, one.encode("a cat"))
    two = loaders.load_two_clip_files(run, "l.safetensors", "t5.safetensors", "flux")
    (cond, entries), = family_conditioning.encode_for_hidream(two, "dog", "", "a cat", "")  # fmt: skip
    assert torch.equal(cond, two.encode("a cat"))
    assert torch.equal(entries["pooled_output"], two.encode_from_tokens(two.tokenize("dog"), return_pooled=True)[1])
