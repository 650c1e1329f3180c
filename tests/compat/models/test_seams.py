"""What packs put in the place of ComfyUI's functions is what Limner itself calls."""

from importlib import import_module

import pytest
import torch

from limner.models.load import load_checkpoint, load_diffusion_model
from limner.models.load_text import load_clip
from limner.models.lora import load_lora
from limner.sampling.resize import common_upscale
from limner.weights import save
from tests.compat.models.conftest import sampled, text
from tests.models.checkpoints import memory

SAMPLING = [
    ("comfy.samplers", "sampling_function"),
    ("comfy.samplers", "calc_cond_batch"),
    ("comfy.samplers", "cfg_function"),
    ("comfy.samplers", "calculate_sigmas"),
    ("comfy.samplers", "sampler_object"),
    ("comfy.samplers", "sample"),
    ("comfy.samplers", "KSampler"),
    ("comfy.sample", "sample"),
    ("comfy.sample", "prepare_noise"),
    ("comfy.sample", "fix_empty_latent_channels"),
    ("comfy.sampler_helpers", "prepare_sampling"),
    ("comfy.sampler_helpers", "get_additional_models"),
    ("comfy.sampler_helpers", "cleanup_models"),
    ("comfy.ldm.modules.attention", "optimized_attention"),
    ("comfy.ldm.modules.diffusionmodules.openaimodel", "apply_control"),
    ("comfy.model_management", "get_free_memory"),
]


@pytest.mark.parametrize(("module", "name"), SAMPLING)
def test_sampling_calls_what_a_pack_put_there(parts, replaced, module, name):
    calls = []
    found = import_module(module)
    original = getattr(found, name)

    def mine(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    before = sampled(parts.model)
    replaced(found, name, mine)
    parts.model.memory.unload_all()
    assert torch.equal(sampled(parts.model), before)
    assert calls


def test_a_function_that_is_taken_away_again_is_not_called_any_more(parts):
    import comfy.samplers

    original = comfy.samplers.cfg_function
    comfy.samplers.cfg_function = lambda *args, **kwargs: args[1] * 0
    changed = sampled(parts.model)
    comfy.samplers.cfg_function = original
    assert not torch.equal(sampled(parts.model), changed)


def test_a_guider_that_a_pack_put_in_the_place_of_the_usual_one_guides(parts, replaced):
    import comfy.samplers

    class Unguided(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options=None, seed=None):
            return torch.zeros_like(x)

    replaced(comfy.samplers, "CFGGuider", Unguided)
    assert sampled(parts.model).abs().max() < 1e-4


def test_a_function_of_k_diffusion_that_a_pack_replaces_is_the_sampler_of_that_name(parts, replaced):
    import comfy.k_diffusion.sampling

    def sample_euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return torch.ones_like(x)

    replaced(comfy.k_diffusion.sampling, "sample_euler", sample_euler)
    assert torch.allclose(sampled(parts.model), torch.full((1, 4, 8, 8), 1 / 0.18215))


def test_a_new_sampler_and_a_new_scheduler_run_by_name(parts, replaced):
    import comfy.k_diffusion.sampling
    import comfy.samplers

    seen = []

    def sample_mine(model, x, sigmas, extra_args=None, callback=None, disable=None):
        seen.append(sigmas.tolist())
        denoised = model(x, sigmas[0] * x.new_ones([x.shape[0]]), **extra_args)
        callback({"x": x, "i": 0, "sigma": sigmas[0], "sigma_hat": sigmas[0], "denoised": denoised})
        return denoised

    replaced(comfy.k_diffusion.sampling, "sample_mine", sample_mine)
    comfy.samplers.SCHEDULER_HANDLERS["steep"] = comfy.samplers.SchedulerHandler(
        lambda n, sigma_min, sigma_max: torch.tensor([sigma_max, 0.0]), use_ms=False
    )
    comfy.samplers.KSampler.SAMPLERS.append("mine")
    comfy.samplers.SCHEDULER_NAMES.append("steep")
    try:
        assert sampled(parts.model, sampler="mine", scheduler="steep").isfinite().all()
    finally:
        comfy.samplers.KSampler.SAMPLERS.remove("mine")
        comfy.samplers.SCHEDULER_NAMES.remove("steep")
        del comfy.samplers.SCHEDULER_HANDLERS["steep"]
    assert seen == [[pytest.approx(parts.model.sampling.sigma_max), 0.0]]


def test_weights_are_patched_by_a_packs_function(parts, replaced):
    import comfy.lora

    keys = []

    def mine(patches, weight, key, intermediate_dtype=torch.float32, original_weights=None):
        keys.append(key)
        return original(patches, weight, key, intermediate_dtype)

    original = replaced(comfy.lora, "calculate_weight", mine)
    model = parts.model.clone()
    model.add_patches({"diffusion_model.out.2.bias": ("diff", (torch.ones(4),))})
    sampled(model, steps=1)
    assert keys == ["diffusion_model.out.2.bias"]


def test_what_packs_load_with_is_what_nodes_load_with(file, replaced):
    import comfy.sd

    paths = []

    def mine(ckpt_path, *args, **kwargs):
        paths.append(ckpt_path)
        return original(ckpt_path, *args, **kwargs)

    original = replaced(comfy.sd, "load_checkpoint_guess_config", mine)
    assert load_checkpoint(file, memory()).clip is not None
    assert paths == [file]


@pytest.mark.parametrize(("name", "load"), [("load_diffusion_model", load_diffusion_model), ("load_clip", None)])
def test_parts_are_loaded_by_a_packs_function(file, replaced, name, load):
    import comfy.sd

    replaced(comfy.sd, name, lambda *args, **kwargs: "mine")
    found = load(file, memory()) if load else load_clip([file], "stable_diffusion", memory())
    assert found == "mine"


def test_files_are_read_by_a_packs_function(file, parts, replaced, tmp_path):
    import comfy.utils

    paths = []

    def mine(ckpt, safe_load=False, device=None, return_metadata=False):
        paths.append(ckpt)
        return original(ckpt, safe_load, device, return_metadata)

    save(tmp_path / "some.safetensors", {"lora_te_none.lora_up.weight": torch.zeros(1, 1)})
    original = replaced(comfy.utils, "load_torch_file", mine)
    load_checkpoint(file, memory())
    load_lora(tmp_path / "some.safetensors", parts.model, None, 1.0, 0.0)
    assert paths == [str(file), str(tmp_path / "some.safetensors")]


@pytest.mark.parametrize(
    ("name", "method"), [("common_upscale", "bilinear"), ("lanczos", "lanczos"), ("bislerp", "bislerp")]
)
def test_pictures_are_resized_by_a_packs_function(base, replaced, name, method):
    import comfy.utils

    replaced(comfy.utils, name, lambda *args, **kwargs: "mine")
    assert common_upscale(torch.zeros(1, 3, 4, 4), 2, 2, method) == "mine"


def test_memory_is_given_back_by_a_packs_function(parts, replaced):
    import comfy.model_management

    calls = []
    replaced(comfy.model_management, "soft_empty_cache", lambda force=False: calls.append(force))
    sampled(parts.model, steps=1)
    parts.model.memory.unload_all()
    assert calls == [False]


def test_the_device_is_the_one_that_a_pack_chooses(base, replaced):
    import comfy.model_management

    replaced(comfy.model_management, "get_torch_device", lambda: torch.device("meta"))
    assert memory().device == torch.device("meta")


def test_the_text_encoder_is_loaded_by_a_packs_function(parts, replaced):
    import comfy.model_management

    seen = []
    original = replaced(comfy.model_management, "load_models_gpu", lambda models, *args, **kwargs: seen.extend(models))
    del original
    parts.clip.load_model()
    assert seen == [parts.clip.patcher]


def test_guidance_still_follows_the_text(parts):
    assert not torch.equal(sampled(parts.model, positive=text(1)), sampled(parts.model, positive=text(2)))


def test_names_that_left_the_chroma_layers_are_still_importable(base):  # seed-S21
    """And they work: see `test_flux.py` for what they compute."""
    from comfy.ldm.chroma.layers import DoubleStreamBlock, SingleStreamBlock

    for cls in (DoubleStreamBlock, SingleStreamBlock):

        class Mine(cls):
            pass

        block = Mine(64, 2, 4.0)
        assert isinstance(block, cls)
        assert not any("mod" in name for name in block.state_dict())
        assert not isinstance(object(), cls)
