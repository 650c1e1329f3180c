"""Controls as packs know them: subclassed, copied, wrapped, loaded and replaced."""

import pytest
import torch

from tests.compat.models.conftest import sampled, text
from tests.models.control.make import control_file, tiny_adapter, tiny_control

PICTURE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def control(base):
    import comfy.controlnet

    file = control_file(base, tiny_control(context_dim=8).state_dict())
    return comfy.controlnet.load_controlnet(str(file))


def controlled(control, strength=1.0):
    return text(1, control=control.copy().set_cond_hint(PICTURE, strength), control_apply_to_uncond=True)


def test_a_loaded_control_is_of_the_class_that_packs_test_for(base):
    import comfy.cldm.cldm
    import comfy.controlnet

    control = comfy.controlnet.load_controlnet(str(control_file(base, tiny_control(context_dim=8).state_dict())))
    assert isinstance(control, comfy.controlnet.ControlNet)
    assert isinstance(control, comfy.controlnet.ControlBase)
    assert isinstance(control.control_model, comfy.cldm.cldm.ControlNet)
    assert control.strength_type is comfy.controlnet.StrengthType.CONSTANT


def test_a_pack_wraps_a_network_of_its_own_in_a_control(parts):
    """Advanced-ControlNet makes its controls of another control's network."""
    import comfy.cldm.cldm
    import comfy.controlnet

    network = comfy.cldm.cldm.ControlNet(
        image_size=8, in_channels=4, model_channels=32, hint_channels=3, num_res_blocks=[1], channel_mult=[1],
        transformer_depth=[1], num_heads=2, context_dim=8,
    )  # fmt: skip
    for parameter in network.parameters():
        parameter.data.fill_(0.01)

    class Mine(comfy.controlnet.ControlNet):
        def copy(self):
            made = Mine(None, load_device=self.load_device)
            made.control_model_wrapped = self.control_model_wrapped
            self.copy_to(made)
            return made

    control = Mine(network, load_device=torch.device("cpu")).copy().set_cond_hint(PICTURE, 0.5)
    control.pre_run(parts.model.model, parts.model.sampling.percent_to_sigma)
    with torch.inference_mode():
        found = control.get_control(torch.zeros(1, 4, 8, 8), torch.ones(1), {"c_crossattn": torch.ones(1, 3, 8)}, 1, {})
    assert [tuple(one.shape) for one in found["output"]] == [(1, 32, 8, 8)] * 2
    assert control.control_model is network


def test_a_pack_that_changes_a_residual_on_its_way_is_heard(parts, control):
    """Packs override `control_merge`."""
    import types

    plain = sampled(parts.model, positive=controlled(control))
    muted = controlled(control)
    one = muted[0][1]["control"]
    merge = type(one).control_merge

    def only_middle(self, found, previous, dtype):
        return merge(self, {"middle": found["middle"]}, previous, dtype)

    one.control_merge = types.MethodType(only_middle, one)
    found = sampled(parts.model, positive=muted)
    assert not torch.allclose(found, plain)
    assert not torch.allclose(found, sampled(parts.model))


def test_hooks_of_a_control_are_registered_for_the_run(parts, control):
    import comfy.hooks

    from limner.sampling.hooks import HookGroup

    seen = []

    class Told(comfy.hooks.Hook):
        def __init__(self):
            super().__init__(hook_type=comfy.hooks.EnumHookType.TransformerOptions)

        def add_hook_patches(self, model, model_options, target_dict, registered):
            seen.append(type(model).__name__)
            return False

    positive = controlled(control)
    group = HookGroup()
    group.add(Told())
    positive[0][1]["control"].extra_hooks = group
    assert positive[0][1]["control"].get_extra_hooks() == [group]
    sampled(parts.model, positive=positive)
    assert seen


def test_a_pack_derives_a_control_lora_of_its_own(parts):
    import comfy.controlnet

    whole = tiny_control(context_dim=8).state_dict()
    weights = {
        name: value
        for name, value in whole.items()
        if name.startswith(("zero_convs", "input_hint", "middle_block_out"))
    }
    seen = []

    class Mine(comfy.controlnet.ControlLora):
        def pre_run(self, model, percent_to_timestep_function):
            comfy.controlnet.ControlLora.pre_run(self, model, percent_to_timestep_function)
            seen.append(self.control_model.input_blocks[0][0].weight)

        def copy(self):
            made = Mine(self.control_weights, global_average_pooling=self.global_average_pooling)
            self.copy_to(made)
            return made

    positive = controlled(Mine(weights))
    assert not torch.allclose(sampled(parts.model, positive=positive), sampled(parts.model))
    own = parts.model.model_state_dict()["diffusion_model.input_blocks.0.0.weight"]
    assert torch.equal(seen[0], own)


def test_what_a_pack_puts_in_the_place_of_the_loader_is_what_nodes_load_with(base, replaced):
    import comfy.controlnet

    from limner.models.control.load import load_controlnet
    from tests.models.checkpoints import memory

    given = []
    replaced(comfy.controlnet, "load_controlnet", lambda path, model=None: given.append(path) or "mine")
    assert load_controlnet("some.safetensors", memory()) == "mine"
    assert given == ["some.safetensors"]


def test_tensors_of_an_adapter_are_one(base):
    import comfy.controlnet
    from comfy.t2i_adapter.adapter import Adapter, Adapter_light

    found = comfy.controlnet.load_t2i_adapter(tiny_adapter().state_dict())
    assert isinstance(found, comfy.controlnet.T2IAdapter)
    assert isinstance(found.t2i_model, Adapter)
    assert not isinstance(found.t2i_model, Adapter_light)
    light = Adapter_light(channels=[8, 16, 16, 16], nums_rb=4, cin=64)
    assert light(torch.zeros(1, 1, 64, 64))["input"][-3].shape == (1, 8, 8, 8)
    assert Adapter(channels=[8] * 4, nums_rb=2, cin=768, ksize=1, sk=True, use_conv=False).xl


def test_control_networks_of_transformers_are_made_by_the_references_arguments(base):
    import comfy.cldm.mmdit
    import comfy.controlnet
    from comfy.ldm.flux.controlnet import ControlNetFlux

    network = ControlNetFlux(
        latent_input=True, num_union_modes=3, control_latent_channels=17, image_model="flux", in_channels=16,
        vec_in_dim=8, context_in_dim=12, hidden_size=128, mlp_ratio=4.0, num_heads=1, depth=1, depth_single_blocks=0,
        axes_dim=[16, 56, 56], theta=10000, patch_size=2, qkv_bias=True, guidance_embed=True,
    )  # fmt: skip
    assert network.controlnet_mode_embedder.weight.shape == (3, 128)
    assert network.pos_embed_input.in_features == 68
    mmdit = comfy.cldm.mmdit.ControlNet(
        num_blocks=2, control_latent_channels=17, in_channels=16, hidden_size=128, num_heads=2, mlp_width=256,
        adm_in_channels=8, context_dim=12, pos_embed_max_size=8,
    )  # fmt: skip
    assert len(mmdit.controlnet_blocks) == 2
    made = comfy.controlnet.load_controlnet_state_dict(
        {name: value.detach() for name, value in network.state_dict().items()}
    )
    assert isinstance(made.control_model, ControlNetFlux)
    assert isinstance(comfy.controlnet.ControlNetSD35(None), comfy.controlnet.ControlNet)
