"""LoRA files for FLUX.1 of programs that call their tensors otherwise."""

import pytest
import torch

from limner.errors import BadInput
from limner.models.load import model_of
from limner.models.lora import load_lora
from limner.models.lora_files import under_known_names
from limner.nodes.inpaint import instruct_pix_to_pix
from limner.sampling import CFGGuider, get_sampler
from limner.weights import CheckpointHeader, save
from tests.models.checkpoints import memory
from tests.models.make import tiny_flux
from tests.models.test_flux import CONFIG, inputs, output

RANK = 2
LAYERS = ("double_blocks.1.txt_mlp.0", "single_blocks.0.linear1", "final_layer.linear")
NORM = "single_blocks.0.norm.key_norm.scale"


@pytest.fixture
def model():
    return model_of(CheckpointHeader.of(tiny_flux().state_dict(), CONFIG), memory())


def control_lora():
    """As Black Forest Labs' are written, for twice as many input channels."""
    torch.manual_seed(5)
    weights = tiny_flux(in_channels=32).state_dict()
    found = {NORM: torch.rand(32) + 0.5}
    for layer in ("img_in", *LAYERS):
        rows, columns = weights[f"{layer}.weight"].shape
        found[f"{layer}.lora_A.weight"] = torch.randn(RANK, columns) / 4
        found[f"{layer}.lora_B.weight"] = torch.randn(rows, RANK) / 4
        found[f"{layer}.lora_B.bias"] = torch.randn(rows) / 4
    return found


def controlled(lora, strength):
    """The network that the control LoRA is to make: its weights written by hand."""
    small, network = tiny_flux(), tiny_flux(in_channels=32)
    weights = dict(small.state_dict())
    weights["img_in.weight"] = torch.cat((weights["img_in.weight"], torch.zeros(64, 64)), dim=1)
    for layer in ("img_in", *LAYERS):
        change = lora[f"{layer}.lora_B.weight"] @ lora[f"{layer}.lora_A.weight"]
        weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + strength * change
        weights[f"{layer}.bias"] = weights[f"{layer}.bias"] + strength * lora[f"{layer}.lora_B.bias"]
    weights[NORM] = lora[NORM]
    network.load_state_dict(weights)
    return network


def loaded(folder, model, tensors, strength=1.0):
    path = folder / "lora.safetensors"
    save(path, tensors)
    return load_lora(path, model, None, strength, 0.0)[0]


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_control_lora_makes_a_network_that_is_shown_a_picture(tmp_path, model, caplog, strength):
    lora = control_lora()
    changed = loaded(tmp_path, model, lora, strength)
    picture = torch.randn(2, 16, 6, 9)
    shown = {"x": torch.cat((inputs()["x"], picture), dim=1)}
    with torch.inference_mode(), changed.loaded() as network:
        found = network(**inputs() | shown)
    assert torch.allclose(found, output(controlled(lora, strength), shown), atol=1e-4)
    assert caplog.text == ""


def test_the_model_before_it_stays_as_it_was(tmp_path, model):
    changed = loaded(tmp_path, model, control_lora())
    for one, joined, columns in ((model, (), 64), (changed, ("scaled_image",), 128), (model, (), 64)):
        assert one.model.concat_keys == joined
        assert one.clone().model.concat_keys == joined
        with one.loaded() as network:
            assert network.img_in.weight.shape[1] == columns


def test_a_control_lora_without_strength_makes_nothing_larger(model):
    lora = under_known_names(CheckpointHeader.of(control_lora()))
    changed = model.clone()
    changed.add_patches(changed.lora_patches({name: lora.tensor(name) for name in lora}), 0.0)
    assert changed.model.concat_keys == ()
    with torch.inference_mode(), changed.loaded() as network:
        assert torch.equal(network(**inputs()), output(tiny_flux()))


def test_a_control_lora_for_a_model_that_cannot_be_shown_more_is_refused(tmp_path, model):
    fill = model_of(CheckpointHeader.of(tiny_flux(in_channels=96).state_dict(), CONFIG), memory())
    with pytest.raises(BadInput, match=r"makes diffusion_model.img_in.weight \[64, 128\] large, in this Flux Fill"):
        loaded(tmp_path, fill, control_lora())
    lora = {
        "diffusion_model.txt_in.reshape_weight": torch.tensor([64, 30]),
        "diffusion_model.txt_in.lora_A.weight": torch.zeros(RANK, 30),
        "diffusion_model.txt_in.lora_B.weight": torch.zeros(64, RANK),
    }
    with pytest.raises(BadInput, match=r"txt_in.weight \[64, 30\] large, in this Flux model it is \[64, 20\]"):
        loaded(tmp_path, model, lora)


def test_a_control_lora_may_be_added_to_a_model_that_is_shown_a_picture_already(tmp_path):
    canny = model_of(CheckpointHeader.of(tiny_flux(in_channels=32).state_dict(), CONFIG), memory())
    assert loaded(tmp_path, canny, control_lora()).model.concat_keys == ("scaled_image",)


class Autoencoder:
    """One whose latents are noise of the picture's size."""

    def encode(self, pixels):
        generator = torch.Generator().manual_seed(int(pixels.sum()))
        return torch.randn(1, 16, pixels.shape[1] // 8, pixels.shape[2] // 8, generator=generator)


def run(model, picture):
    """A latent after two steps, the picture shown beside it."""
    torch.manual_seed(3)
    prompt = [[torch.randn(1, 5, 20), {"pooled_output": torch.randn(1, 12), "guidance": 10.0}]]
    positive, negative, latent = instruct_pix_to_pix(prompt, prompt, Autoencoder(), picture)
    guider = CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(1.0)
    noise = torch.randn(latent["samples"].shape)
    with torch.inference_mode():
        return guider.sample(noise, latent["samples"], get_sampler("euler"), torch.tensor((1.0, 0.5, 0.0)), seed=1)


def test_a_run_with_a_control_lora_follows_the_picture(tmp_path, model):
    changed = loaded(tmp_path, model, control_lora())
    one, other = torch.zeros(1, 48, 64, 3), torch.ones(1, 48, 64, 3)
    assert run(changed, one).shape == (1, 16, 6, 8)
    assert torch.equal(run(changed, one), run(changed, one))
    assert not torch.allclose(run(changed, one), run(changed, other), atol=1e-3)
    assert torch.equal(run(model, one), run(model, other))  # without it nothing is shown


USO_LAYERS = {
    "double_blocks.0.processor.qkv_lora1": ("double_blocks.0.img_attn.qkv", 192, 64),
    "double_blocks.2.processor.qkv_lora2": ("double_blocks.2.txt_attn.qkv", 192, 64),
    "double_blocks.0.processor.proj_lora1": ("double_blocks.0.img_attn.proj", 64, 64),
    "double_blocks.1.processor.proj_lora2": ("double_blocks.1.txt_attn.proj", 64, 64),
    "single_blocks.1.processor.qkv_lora": ("single_blocks.1.linear1", 192, 64),
    "single_blocks.0.processor.proj_lora": ("single_blocks.0.linear2", 64, 320),
}


def uso_lora():
    torch.manual_seed(6)
    found = {}
    for name, (_, rows, columns) in USO_LAYERS.items():
        found[f"{name}.down.weight"] = torch.randn(RANK, columns)
        found[f"{name}.up.weight"] = torch.randn(rows, RANK)
    return found


def test_usos_lora_changes_the_layers_that_its_processors_stand_beside(tmp_path, model, caplog):
    lora = uso_lora()
    changed = loaded(tmp_path, model, lora, 0.5)
    expected = dict(tiny_flux().state_dict())
    for name, (layer, rows, _) in USO_LAYERS.items():
        weight = expected[f"{layer}.weight"].clone()
        weight[:rows] += 0.5 * lora[f"{name}.up.weight"] @ lora[f"{name}.down.weight"]
        expected[f"{layer}.weight"] = weight
    with changed.loaded() as network:
        found = network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], value, atol=1e-5) for name, value in expected.items())
    assert caplog.text == ""


def test_any_other_lora_is_as_it_is():
    header = CheckpointHeader.of({"transformer.x_embedder.lora_A.weight": torch.zeros(2, 64)})
    assert under_known_names(header) is header
