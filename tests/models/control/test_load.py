"""Which control a file is, and what is made of it."""

import pytest
import torch

from limner.errors import BadInput, NotFound
from limner.models.control.load import control_of, detect, load_controlnet
from limner.models.control.lora import ControlLora
from limner.models.control.network import ControlNet
from limner.models.control.t2i import T2IAdapter
from limner.models.load import load_diffusion_model
from limner.weights import CheckpointHeader, save
from tests.models.checkpoints import checkpoint, memory, tensors
from tests.models.control.make import ADAPTER, HINT, control_file, tiny_adapter, tiny_control

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
PICTURE = torch.rand(1, 3, 70, 90, generator=torch.Generator().manual_seed(2))
TEXT = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(4))


def model(tmp_path):
    return load_diffusion_model(checkpoint(tmp_path), memory())


def answer(control, model, x=X, sigma=2.0, **cond):
    """What a control says of x at a noise level, told that a run has begun."""
    control.set_cond_hint(PICTURE, 1.0)
    control.pre_run(model.model, model.sampling.percent_to_sigma)
    with torch.inference_mode():
        return control.get_control(x, torch.full((len(x),), sigma), {"c_crossattn": TEXT, **cond}, 1, {})


def same(found, expected):
    for part in ("input", "middle", "output"):
        assert len(found[part]) == len(expected.get(part, []))
        for one, other in zip(found[part], expected.get(part, []), strict=True):
            assert (one is None and other is None) or torch.allclose(one, other, atol=1e-5)


def direct(network, model, sigma=2.0, **more):
    """The same network called by hand."""
    from limner.sampling.resize import common_upscale

    sampling, level = model.sampling, torch.full((len(X),), sigma)
    hint = common_upscale(PICTURE, 64, 64, "nearest-exact", "center")
    with torch.inference_mode():
        return network(sampling.calculate_input(level, X), hint, sampling.timestep(level), TEXT, **more)


@pytest.mark.parametrize("prefix", ["", "control_model."])
def test_an_original_file_computes_what_its_network_does(tmp_path, prefix):
    base, network = model(tmp_path), tiny_control()
    file = control_file(tmp_path, {prefix + name: value for name, value in network.state_dict().items()})
    control = load_controlnet(file, memory())
    assert type(control) is ControlNet
    same(answer(control, base), direct(network, base))


def test_strength_scales_and_a_chain_adds(tmp_path):
    base, network = model(tmp_path), tiny_control()
    control = load_controlnet(control_file(tmp_path, network.state_dict()), memory())
    alone = answer(control, base)
    first = control.copy().set_cond_hint(PICTURE, 0.5)
    second = control.copy().set_cond_hint(PICTURE, 0.25)
    second.set_previous_controlnet(first)
    second.pre_run(base.model, base.sampling.percent_to_sigma)
    with torch.inference_mode():
        both = second.get_control(X, torch.tensor([2.0, 2.0]), {"c_crossattn": TEXT}, 1, {})
    same(both, {part: [one * 0.75 for one in several] for part, several in alone.items()})
    assert second.get_models() == [control.control_model_wrapped] * 2
    second.cleanup()
    assert first.timestep_range is None


def test_outside_of_its_range_only_the_one_before_it_speaks(tmp_path):
    base = model(tmp_path)
    control = load_controlnet(control_file(tmp_path, tiny_control().state_dict()), memory())
    late = control.copy().set_cond_hint(PICTURE, 1.0, (0.5, 1.0))
    late.pre_run(base.model, base.sampling.percent_to_sigma)
    arguments = (X, torch.full((2,), base.sampling.percent_to_sigma(0.4)), {"c_crossattn": TEXT}, 1, {})
    assert late.get_control(*arguments) is None
    late.set_previous_controlnet(control.copy().set_cond_hint(PICTURE, 1.0))
    late.pre_run(base.model, base.sampling.percent_to_sigma)
    with torch.inference_mode():
        assert len(late.get_control(*arguments)["output"]) == 4


def test_a_text_for_controls_alone_is_what_the_network_is_told(tmp_path):
    base, network = model(tmp_path), tiny_control()
    control = load_controlnet(control_file(tmp_path, network.state_dict()), memory())
    other = TEXT * 2
    found = answer(control, base, crossattn_controlnet=other)
    sampling, level = base.sampling, torch.full((2,), 2.0)
    hint = control.hint_for(X, 1)
    with torch.inference_mode():
        expected = network(sampling.calculate_input(level, X), hint, sampling.timestep(level), other)
    same(found, expected)


def test_fewer_hints_than_latents_are_repeated_for_each_condition(tmp_path):
    base = model(tmp_path)
    control = load_controlnet(control_file(tmp_path, tiny_control().state_dict()), memory())
    control.set_cond_hint(torch.cat((PICTURE, 1 - PICTURE)), 1.0)
    control.pre_run(base.model, base.sampling.percent_to_sigma)
    six = X[:1].expand(6, -1, -1, -1)
    hint = control.hint_for(six, 2)
    assert hint.shape == (6, 3, 64, 64)
    assert torch.equal(hint[0], hint[2])
    assert torch.equal(hint[:3], hint[3:])
    assert not torch.equal(hint[0], hint[1])


def test_a_file_named_shuffle_averages_over_the_picture(tmp_path):
    base = model(tmp_path)
    control = load_controlnet(
        control_file(tmp_path, tiny_control().state_dict(), "control_shuffle.safetensors"), memory()
    )
    for residual in answer(control, base)["output"]:
        assert torch.allclose(residual, residual[..., :1, :1].expand_as(residual), atol=1e-6)


def test_a_difference_is_added_to_the_model_it_was_made_for(tmp_path):
    base, network = model(tmp_path), tiny_control()
    own = base.model_state_dict()
    state = {}
    for name, value in network.state_dict().items():
        inside = own.get("diffusion_model." + name)
        state["control_model." + name] = value if inside is None else value - inside
    file = control_file(tmp_path, {**state, "difference": torch.zeros(1)})
    same(answer(load_controlnet(file, memory(), base), base), direct(network, base))
    with pytest.raises(BadInput, match="differences"):
        load_controlnet(file, memory())


def test_a_control_lora_changes_the_weights_of_the_model_that_is_sampled(tmp_path):
    base, network = model(tmp_path), tiny_control()
    own = base.model_state_dict()
    state, changed = {"lora_controlnet": torch.zeros(1)}, {}
    for name, value in network.state_dict().items():
        module, _, leaf = name.rpartition(".")
        inside = own.get("diffusion_model." + name)
        changed[name] = value
        if inside is not None and leaf == "weight" and inside.ndim > 1:
            up = torch.randn(inside.shape[0], 2, *[1] * (inside.ndim - 2)) * 0.1
            down = torch.randn(2, *inside.shape[1:]) * 0.1
            state |= {f"{module}.up": up, f"{module}.down": down}
            changed[name] = inside + (up.flatten(1) @ down.flatten(1)).reshape(inside.shape)
        else:
            state[name] = value
    control = load_controlnet(control_file(tmp_path, state), memory())
    assert isinstance(control, ControlLora)
    network.load_state_dict(changed)
    same(answer(control, base), direct(network, base))
    copy = control.copy()
    control.cleanup()
    assert control.get_models() == copy.get_models() == []


def test_a_control_lora_follows_a_lora_of_the_model(tmp_path):
    """It is made of the model's weights as they are patched when the run begins."""
    base = model(tmp_path)
    state = {"lora_controlnet": torch.zeros(1)}
    state |= {name: value for name, value in tiny_control().state_dict().items() if "zero_convs" in name
              or name.startswith(("input_hint", "middle_block_out"))}  # fmt: skip
    control = load_controlnet(control_file(tmp_path, state), memory())
    plain = answer(control, base)
    patched = base.clone()
    patched.add_patches({"diffusion_model.input_blocks.0.0.weight": (torch.ones(8, 4, 3, 3),)})
    assert not torch.allclose(answer(control, patched)["output"][0], plain["output"][0])
    same(answer(control, base), plain)


def test_a_union_network_is_told_what_it_is_shown(tmp_path):
    base, network = model(tmp_path), tiny_control(kinds=6)
    control = load_controlnet(control_file(tmp_path, network.state_dict()), memory())
    same(answer(control, base), direct(network, base))
    depth = control.copy()
    depth.set_extra_arg("control_type", [1])
    same(answer(depth, base), direct(network, base, control_type=[1]))
    assert not torch.allclose(answer(depth, base)["output"][0], answer(control, base)["output"][0])
    depth.set_extra_arg("control_type", [6])
    with pytest.raises(BadInput, match="no kind number 6"):
        answer(depth, base)


@pytest.mark.parametrize("side", [8, 7])
def test_an_adapter_looks_once_and_fits_the_unet(tmp_path, side):
    sizes = {"channel_mult": (1, 2, 2, 2), "num_res_blocks": (2,) * 4, "transformer_depth": (0,) * 8}
    contents = tensors(**sizes, transformer_depth_output=(0,) * 12)
    base = load_diffusion_model(checkpoint(tmp_path, contents), memory())
    control = load_controlnet(control_file(tmp_path, tiny_adapter().state_dict()), memory())
    assert isinstance(control, T2IAdapter)
    x = X[..., :side]
    found = answer(control, base, x)
    assert [one is not None for one in found["input"]] == [True, False, False] * 4
    with base.loaded() as network, torch.inference_mode():
        plain = network(x, torch.tensor([3.0, 3.0]), TEXT)
        assert not torch.allclose(network(x, torch.tensor([3.0, 3.0]), TEXT, control=found), plain)
    first = control.control_input
    control.get_control(x, torch.tensor([1.0, 1.0]), {"c_crossattn": TEXT}, 1, {})
    assert control.control_input is first


def test_an_adapter_of_one_channel_is_shown_grey(tmp_path):
    base = model(tmp_path)
    control = load_controlnet(control_file(tmp_path, tiny_adapter(colours=1).state_dict()), memory())
    grey = control.copy().set_cond_hint(PICTURE.mean(1, keepdim=True), 1.0)
    assert torch.allclose(control.set_cond_hint(PICTURE, 1.0).make_hint(X), grey.make_hint(X))
    assert grey.make_hint(X).shape == (1, 1, 64, 64)
    assert base is not None


def test_an_adapter_of_xl_begins_at_a_sixteenth_and_ends_in_the_middle(tmp_path):
    file = control_file(tmp_path, tiny_adapter(unshuffle=16, xl=True).state_dict())
    control = load_controlnet(file, memory())
    assert control.compression_ratio == 16
    found = answer(control, model(tmp_path), X[..., :7])
    shapes = [None if one is None else tuple(one.shape[1:]) for one in found["input"]]
    assert shapes == [(16, 2, 2), None, None, (16, 4, 4), None, (8, 4, 4), None, None, None]
    assert found["middle"][0].shape[1:] == (16, 2, 2)


@pytest.mark.parametrize("layout", ["adapter.", "diffusers"])
def test_an_adapter_under_other_names_is_the_same(tmp_path, layout):
    state = tiny_adapter().state_dict()
    if layout == "adapter.":
        other = {"adapter." + name: value for name, value in state.items()}
    else:
        other = {}
        for name, value in state.items():
            _, number, rest = (*name.split(".", 2), "")[:3] if name.startswith("body.") else ("", "", name)
            if not number:
                other["adapter." + name] = value
            elif rest.startswith("in_conv"):
                other[f"adapter.body.{int(number) // 2}.{rest}"] = value
            else:
                other[f"adapter.body.{int(number) // 2}.resnets.{int(number) % 2}.{rest}"] = value
    base = model(tmp_path)
    found = load_controlnet(control_file(tmp_path, other), memory())
    plain = load_controlnet(control_file(tmp_path, state, "plain.safetensors"), memory())
    same(answer(found, base), answer(plain, base))


def test_a_folder_of_the_diffusers_library_is_read(tmp_path):
    folder = tmp_path / "canny"
    folder.mkdir()
    control_file(folder, tiny_control().state_dict(), "diffusion_pytorch_model.fp16.safetensors")
    assert isinstance(load_controlnet(folder, memory()), ControlNet)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="empty"):
        load_controlnet(tmp_path / "empty", memory())


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["model.diffusion_model.out.2.weight"], "Load Checkpoint"),
        (["lora_unet_x.lora_up.weight"], "Load LoRA"),
        (["after_proj_list.18.bias"], "HunyuanDiT"),
        (["backbone.0.0.weight"], "Stable Cascade"),
        (["something"], "inspect"),
    ],
)
def test_what_is_no_control_says_what_it_may_be(tmp_path, names, said):
    save(tmp_path / "x.safetensors", {name: torch.zeros(1) for name in names})
    with pytest.raises(BadInput) as caught:
        load_controlnet(tmp_path / "x.safetensors", memory())
    assert said in str(caught.value.do)
    assert "x.safetensors" in str(caught.value)


def test_a_control_of_another_family_is_refused_when_it_is_used(tmp_path):
    base = model(tmp_path)
    control = load_controlnet(control_file(tmp_path, tiny_control(context_dim=10).state_dict()), memory())
    with pytest.raises(BadInput, match="6"):
        answer(control, base)
    vector = load_controlnet(control_file(tmp_path, tiny_control(adm_in_channels=4).state_dict()), memory())
    with pytest.raises(BadInput, match="vector y"):
        answer(vector, base)


def test_every_dimension_is_read_off_the_tensors():
    header = CheckpointHeader.of(tiny_control(kinds=3).state_dict())
    kind, layout = detect(header)
    config = kind.infer_config(layout.convert(header), {"num_heads": 2, "norm_groups": 4})
    assert (config.hint, config.kinds, config.unet.model_channels, config.angles) == (HINT, 3, 8, 256)
    with pytest.raises(BadInput, match="hint_channels"):
        kind.infer_config(header, {"num_heads": 2, "norm_groups": 4, "hint_channels": 1})
    adapter = CheckpointHeader.of(tiny_adapter().state_dict())
    assert detect(adapter)[0].infer_config(adapter, {}) == ADAPTER


def test_a_pass_leaves_its_inputs_as_they_are(tmp_path):
    base = model(tmp_path)
    control = control_of(
        CheckpointHeader.of(tiny_control().state_dict(), {"config": '{"num_heads": 2, "norm_groups": 4}'}), memory()
    )
    x, text = X.clone(), TEXT.clone()
    answer(control, base, x)
    assert torch.equal(x, X)
    assert torch.equal(text, TEXT)
