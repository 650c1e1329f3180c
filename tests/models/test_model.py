import pytest
import torch

from limner.errors import BadInput
from limner.memory import DefaultSettings, MemoryManager
from limner.models.load import load_diffusion_model
from limner.sampling.model_sampling import make_sampling
from limner.weights import save
from tests.models.checkpoints import checkpoint, memory, metadata, tensors
from tests.models.make import tiny_unet
from tests.models.test_load import prediction

WEIGHT = "diffusion_model.out.2.weight"


@pytest.fixture
def model(tmp_path):
    return load_diffusion_model(checkpoint(tmp_path), memory())


def difference():
    return {WEIGHT: ("diff", (torch.ones(4, 8, 3, 3),))}


def test_a_clones_patches_leave_the_original_alone(model):
    before = prediction(model)
    other = model.clone()
    assert other.add_patches(difference(), 0.5) == [WEIGHT]
    changed = prediction(other)
    assert not torch.allclose(changed, before)
    assert torch.equal(prediction(model), before)
    assert torch.equal(prediction(other), changed)


def test_patches_of_unknown_weights_are_not_taken(model):
    assert model.add_patches({"diffusion_model.none.weight": ("diff", (torch.ones(1),))}) == []
    assert not model.patches


def test_equal_patches_in_another_clone_load_nothing_again(model):
    one = model.clone()
    one.add_patches(difference())
    two = one.clone()
    with one.loaded() as first, two.loaded() as second:
        assert first is second


def test_the_files_weights_are_never_edited(model):
    other = model.clone()
    other.add_patches(difference(), 2.0)
    prediction(other)
    assert torch.equal(model.model_state_dict()[WEIGHT], tiny_unet().state_dict()["out.2.weight"])


def test_merging_two_models_is_a_weighted_sum(tmp_path):
    manager = memory()
    first = load_diffusion_model(checkpoint(tmp_path), manager)
    contents = {name: value * 3 if value.is_floating_point() else value for name, value in tensors().items()}
    second = load_diffusion_model(checkpoint(tmp_path, contents, "b.safetensors"), manager)
    merged = first.clone()
    merged.add_patches(second.get_key_patches("diffusion_model."), 0.25, 0.75)
    with merged.loaded() as network:
        found = network.state_dict()["out.2.weight"].clone()
    own = tiny_unet().state_dict()["out.2.weight"]
    assert torch.allclose(found, own * 0.75 + own * 3 * 0.25)


def test_a_slice_of_a_weight_can_be_patched(model):
    model.add_patches({(WEIGHT, (0, 1, 2)): ("diff", (torch.ones(2, 8, 3, 3),))})
    with model.loaded() as network:
        change = network.state_dict()["out.2.weight"] - tiny_unet().state_dict()["out.2.weight"]
    assert torch.allclose(change[1:3], torch.ones(2, 8, 3, 3))
    assert change[[0, 3]].abs().max() == 0


def test_a_patch_of_another_shape_is_left_out_with_a_warning(model, caplog):
    before = prediction(model)
    other = model.clone()
    other.add_patches({WEIGHT: ("diff", (torch.ones(5),))})
    assert torch.equal(prediction(other), before)
    assert "does not fit" in caplog.text


def test_an_unknown_kind_of_patch_is_refused(model):
    with pytest.raises(BadInput, match="kind"):
        model.add_patches({WEIGHT: ("magic", (torch.ones(1),))})


HOOKS = {
    "set_model_sampler_cfg_function": "sampler_cfg_function",
    "set_model_sampler_calc_cond_batch_function": "sampler_calc_cond_batch_function",
    "set_model_unet_function_wrapper": "model_function_wrapper",
    "set_model_denoise_mask_function": "denoise_mask_function",
}
LISTED = {
    "set_model_sampler_post_cfg_function": "sampler_post_cfg_function",
    "set_model_sampler_pre_cfg_function": "sampler_pre_cfg_function",
}
POINTS = {
    "set_model_attn1_patch": "attn1_patch",
    "set_model_attn2_patch": "attn2_patch",
    "set_model_attn1_output_patch": "attn1_output_patch",
    "set_model_attn2_output_patch": "attn2_output_patch",
    "set_model_input_block_patch": "input_block_patch",
    "set_model_input_block_patch_after_skip": "input_block_patch_after_skip",
    "set_model_output_block_patch": "output_block_patch",
    "set_model_emb_patch": "emb_patch",
    "set_model_forward_timestep_embed_patch": "forward_timestep_embed_patch",
    "set_model_double_block_patch": "double_block",
    "set_model_post_input_patch": "post_input",
}


def hook(args):
    return args


@pytest.mark.parametrize("method", [*HOOKS, *LISTED, *POINTS])
def test_each_hook_is_where_sampling_and_networks_look_for_it(model, method):
    getattr(model, method)(hook)
    options = model.options
    if method in HOOKS:
        assert options[HOOKS[method]] is hook
    elif method in LISTED:
        assert options[LISTED[method]] == [hook]
    else:
        assert options["transformer_options"]["patches"][POINTS[method]] == [hook]


@pytest.mark.parametrize("name", ["attn1", "attn2"])
def test_replacements_are_keyed_by_place(model, name):
    getattr(model, f"set_model_{name}_replace")(hook, "input", 1)
    getattr(model, f"set_model_{name}_replace")(hook, "input", 1, 0)
    replaced = model.options["transformer_options"]["patches_replace"][name]
    assert set(replaced) == {("input", 1), ("input", 1, 0)}


def test_hooks_of_a_clone_leave_the_original_alone(model):
    model.set_model_attn1_patch(hook)
    other = model.clone()
    other.set_model_attn1_patch(print)
    other.set_model_sampler_post_cfg_function(hook)
    assert model.options["transformer_options"]["patches"]["attn1_patch"] == [hook]
    assert "sampler_post_cfg_function" not in model.options


def test_the_older_guidance_function_gets_its_three_arguments(model):
    model.set_model_sampler_cfg_function(lambda cond, uncond, scale: (cond, uncond, scale))
    assert model.options["sampler_cfg_function"]({"cond": 1, "uncond": 2, "cond_scale": 3}) == (1, 2, 3)


def test_a_hook_reaches_the_network(model):
    seen = []
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 6)
    model.set_model_emb_patch(lambda emb, *_: seen.append(emb.shape) or emb)
    model.apply_model(
        x, torch.tensor([1.0]), c_crossattn=context, transformer_options=model.options["transformer_options"]
    )
    assert seen == [(1, 32)]


def test_another_model_sampling_can_be_put_in_place(model):
    other = model.clone()
    other.add_object_patch("model_sampling", make_sampling("v"))
    assert other.get_model_object("model_sampling") is other.sampling
    assert model.sampling is not other.sampling


def test_a_module_can_be_put_in_place_and_is_taken_out_again(model):
    other = model.clone()
    other.add_object_patch("diffusion_model.out.1", torch.nn.Identity())
    with other.loaded() as network:
        assert isinstance(network.out[1], torch.nn.Identity)
    with model.loaded() as network:
        assert isinstance(network.out[1], torch.nn.SiLU)


def test_an_object_that_is_not_there_is_refused(model):
    with pytest.raises(BadInput):
        model.get_model_object("nonsense")


def test_bfloat16_stays_close_to_float32(tmp_path):
    path = checkpoint(tmp_path)
    exact = prediction(load_diffusion_model(path, memory()))
    coarse = load_diffusion_model(path, MemoryManager(DefaultSettings(bf16_unet=True, cpu=True)))
    assert coarse.model_dtype() == torch.bfloat16
    found = prediction(coarse)
    assert found.dtype == torch.float32
    assert (found - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_eight_bit_weights_compute_in_float32(tmp_path):
    model = load_diffusion_model(checkpoint(tmp_path), MemoryManager(DefaultSettings(fp8_e4m3fn_unet=True, cpu=True)))
    with model.loaded() as network:
        assert network.out[2].weight.dtype == torch.float8_e4m3fn
    assert prediction(model).isfinite().all()


def test_an_inpainting_model_without_picture_paints_over_grey(tmp_path):
    save(tmp_path / "x.safetensors", tensors(in_channels=9), metadata())
    model = load_diffusion_model(tmp_path / "x.safetensors", memory())
    found = model.extra_conds(noise=torch.zeros(2, 4, 8, 8))["c_concat"]
    found = getattr(found, "cond", found)
    assert found.shape == (2, 5, 8, 8)
    assert found[:, 0].min() == 1
    assert found[0, 1, 0, 0] == pytest.approx(0.8223)
