"""comfy.lora_convert: packs that read LoRA files themselves get names that are known."""

import pytest
import torch

from tests.models.test_flux_lora import control_lora, uso_lora

pytestmark = pytest.mark.usefixtures("base")


def test_a_control_lora_gets_the_names_of_changes_and_says_how_large_the_first_layer_becomes():
    from comfy.lora_convert import convert_lora

    given = control_lora()
    found = convert_lora(given)
    assert found["diffusion_model.img_in.reshape_weight"].tolist() == [64, 128]
    assert torch.equal(found["diffusion_model.img_in.diff_b"], given["img_in.lora_B.bias"])
    norm = "single_blocks.0.norm.key_norm.scale"
    assert torch.equal(found[f"diffusion_model.{norm}.set_weight"], given[norm])
    assert len(found) == len(given) + 1


def test_usos_lora_gets_the_names_of_layers():
    from comfy.lora_convert import convert_lora

    found = convert_lora(uso_lora())
    assert found["diffusion_model.single_blocks.1.linear1_qkv.lora_up.weight"].shape == (192, 2)
    assert found["diffusion_model.double_blocks.2.txt_attn.qkv.lora_down.weight"].shape == (2, 64)


def test_any_other_lora_is_itself():
    from comfy.lora_convert import convert_lora

    given = {"lora_unet_x.lora_up.weight": torch.zeros(1, 1)}
    assert convert_lora(given) is given
