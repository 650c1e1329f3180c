"""Transformers of two streams as packs reach into them: classes by ComfyUI's names, blocks, families."""

from importlib import import_module

import pytest
import torch

from limner.weights import save
from tests.models import test_qwen_image, test_sd3

KINDS = {
    "sd3": (test_sd3, "comfy.ldm.modules.diffusionmodules.mmdit", "OpenAISignatureMMDITWrapper", "SD3"),
    "qwen": (test_qwen_image, "comfy.ldm.qwen_image.model", "QwenImageTransformer2DModel", "QwenImage"),
}
BLOCKS = {"sd3": ("joint_blocks", "JointBlock"), "qwen": ("transformer_blocks", "QwenImageTransformerBlock")}


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_transformer_is_one_by_comfyuis_names(tmp_path, kind):
    import comfy.sd
    import comfy.supported_models

    made, module, network_name, family = KINDS[kind]
    save(tmp_path / "tiny.safetensors", dict(made.tiny().state_dict()), {})
    model = comfy.sd.load_diffusion_model(str(tmp_path / "tiny.safetensors"))
    names = import_module(module)
    blocks, block_name = BLOCKS[kind]
    network = model.model.diffusion_model
    assert isinstance(network, getattr(names, network_name))
    assert all(isinstance(block, getattr(names, block_name)) for block in getattr(network, blocks))
    assert isinstance(model.model.model_config, getattr(comfy.supported_models, family))
    assert not isinstance(model.model.model_config, comfy.supported_models.SD15)
    found = [one.__name__ for one in comfy.supported_models.models if one.matches(model.model.model_config.unet_config)]
    assert found == [family]


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize("kind", KINDS)
def test_a_block_whose_class_a_pack_patches_runs_the_packs_way(kind, monkeypatch):
    made, module, _, _ = KINDS[kind]
    block = getattr(import_module(module), BLOCKS[kind][1])
    network, calls, original = made.tiny(), [], block.forward

    def mine(self, *args, **kwargs):
        calls.append(self)
        return original(self, *args, **kwargs)

    plain = made.output(network)
    monkeypatch.setattr(block, "forward", mine)
    assert torch.allclose(made.output(network), plain, atol=1e-6)
    assert calls == list(getattr(network, BLOCKS[kind][0]))


@pytest.mark.usefixtures("base")
def test_a_block_is_told_by_its_class():
    from comfy.ldm.modules.diffusionmodules.mmdit import JointBlock

    blocks = [module for module in test_sd3.tiny().modules() if isinstance(module, JointBlock)]
    assert len(blocks) == test_sd3.TINY.depth


@pytest.mark.usefixtures("base")
def test_the_norm_of_queries_is_made_as_comfyui_makes_it():
    from comfy.ldm.modules.diffusionmodules.mmdit import RMSNorm

    norm = RMSNorm(4, elementwise_affine=True, eps=1e-6)
    found = norm(torch.tensor([[2.0, 2.0, 2.0, 2.0]]))
    assert torch.allclose(found, torch.ones(1, 4))
