"""Hooks, wrappers, callbacks and injections that packs hang on a model, in the forms ComfyUI gives them."""

import pytest
import torch

from limner.sampling import CFGGuider, get_sampler, steps_sigmas
from tests.compat.models.conftest import sampled, text

WRAPPED = ("outer_sample", "prepare_sampling", "sampler_sample", "predict_noise", "calc_cond_batch", "apply_model", "diffusion_model")  # fmt: skip


def test_wrappers_run_around_each_call_of_sampling_the_outermost_first(parts):
    order = []
    model = parts.model.clone()
    before = sampled(model, steps=1)

    def make(kind):
        def wrapper(executor, *args, **kwargs):
            order.append(kind)
            return executor(*args, **kwargs)

        return wrapper

    for kind in WRAPPED:
        model.add_wrapper_with_key(kind, "mine", make(kind))
    assert torch.equal(sampled(model, steps=1), before)
    assert tuple(dict.fromkeys(order)) == WRAPPED


def test_an_outer_sample_wrapper_is_given_the_shapes_and_the_guider(parts):
    seen = []
    model = parts.model.clone()

    def wrapper(executor, *args, **kwargs):
        seen.append((len(args), list(kwargs), type(executor.class_obj).__name__))
        return executor(*args, **kwargs)

    model.add_wrapper("outer_sample", wrapper)
    sampled(model, steps=1)
    assert seen == [(8, ["latent_shapes"], "CFGGuider")]


def test_an_apply_model_wrapper_may_answer_in_the_models_place(parts):
    model = parts.model.clone()
    model.add_wrapper("apply_model", lambda executor, x, *args, **kwargs: torch.zeros_like(x))
    assert sampled(model).abs().max() < 1e-4


def test_a_diffusion_model_wrapper_belongs_to_the_network(parts):
    seen = []
    model = parts.model.clone()

    def wrapper(executor, x, timesteps, context, y, control, transformer_options, **kwargs):
        seen.append((executor.class_obj is model.model.diffusion_model, context.shape[-1]))
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)

    model.add_wrapper("diffusion_model", wrapper)
    sampled(model, steps=1)
    assert seen == [(True, 8)]


def test_wrappers_among_transformer_options_run_too(parts):
    from comfy.patcher_extension import WrappersMP, add_wrapper_with_key, get_wrappers_with_key

    seen = []
    model = parts.model.clone()

    def wrapper(executor, *args, **kwargs):
        seen.append(1)
        return executor(*args, **kwargs)

    options = model.model_options["transformer_options"]
    add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "mine", wrapper, options)
    assert get_wrappers_with_key(WrappersMP.PREDICT_NOISE, "mine", options) == [wrapper]
    sampled(model, steps=2)
    assert len(seen) == 2


def test_callbacks_tell_what_happens_to_a_model(parts):
    from comfy.patcher_extension import CallbacksMP

    seen = []
    model = parts.model.clone()
    for kind in (CallbacksMP.ON_PRE_RUN, CallbacksMP.ON_CLEANUP, CallbacksMP.ON_PREPARE_STATE, CallbacksMP.ON_LOAD):
        model.add_callback_with_key(kind, "mine", lambda patcher, *args, kind=kind: seen.append(kind))
    model.add_callback(CallbacksMP.ON_CLONE, lambda patcher, other: seen.append("on_clone"))
    clone = model.clone()
    sampled(clone, steps=2)
    assert seen == ["on_clone", "on_load_after", "on_pre_run", "on_prepare_state", "on_prepare_state", "on_cleanup"]


def test_injections_hold_while_the_model_is_in_use(parts):
    from comfy.patcher_extension import PatcherInjection

    seen = []
    model = parts.model.clone()
    model.set_injections("mine", [PatcherInjection(lambda p: seen.append("in"), lambda p: seen.append("out"))])
    model.add_wrapper("predict_noise", lambda executor, *args: [seen.append("step"), executor(*args)][1])
    sampled(model, steps=1)
    assert seen == ["in", "step", "out"]
    assert not model.is_injected


def test_the_model_that_hooks_are_given_has_the_networks_facts(parts):
    import comfy.model_base
    import comfy.model_sampling

    seen = {}
    model = parts.model.clone()
    model.set_model_sampler_post_cfg_function(lambda args: seen.update(args) or args["denoised"])
    sampled(model, steps=1)
    inner = seen["model"]
    assert isinstance(inner, comfy.model_base.BaseModel)
    assert inner.current_patcher is model
    assert isinstance(inner.model_sampling, comfy.model_sampling.EPS)
    assert isinstance(inner.model_sampling, comfy.model_sampling.ModelSamplingDiscrete)
    assert not isinstance(inner.model_sampling, comfy.model_sampling.CONST)
    assert inner.latent_format.latent_channels == 4
    assert inner.model_config.unet_config["context_dim"] == 8
    assert inner.diffusion_model.input_blocks is not None


def test_a_model_sampling_of_a_packs_own_classes_is_sampled_with(parts):
    import comfy.model_sampling

    class Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        pass

    own = Flow(parts.model.model.model_config)
    own.set_parameters(shift=3.0, multiplier=1000)
    model = parts.model.clone()
    model.add_object_patch("model_sampling", own)
    assert model.get_model_object("model_sampling") is own
    other = parts.model.clone()
    from limner.sampling import make_sampling

    other.add_object_patch("model_sampling", make_sampling("flow", shift=3.0))
    for sampler in ("euler", "euler_ancestral", "dpmpp_2m_sde"):
        first, second = sampled(model, sampler=sampler), sampled(other, sampler=sampler)
        assert torch.allclose(first, second, atol=1e-4)


def test_parts_of_a_network_are_replaced_by_object_patches_while_it_runs(parts):
    model = parts.model.clone()
    model.add_object_patch("diffusion_model.out", torch.nn.Conv2d(8, 4, 3, padding=1))
    assert isinstance(model.get_model_object("diffusion_model.out"), torch.nn.Conv2d)
    assert not torch.equal(sampled(model), sampled(parts.model))
    assert isinstance(parts.model.model.diffusion_model.out, torch.nn.Sequential)


def test_attention_may_be_overridden_by_an_option(parts):
    calls = []
    model = parts.model.clone()

    def override(function, *args, **kwargs):
        calls.append(kwargs["transformer_options"]["block"])
        return function(*args, **kwargs)

    model.model_options["transformer_options"]["optimized_attention_override"] = override
    assert torch.equal(sampled(model, steps=1), sampled(parts.model, steps=1))
    assert ("middle", 0) in calls


def test_layers_of_a_class_may_be_handled_by_a_pack(parts):
    from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock

    calls = []
    model = parts.model.clone()

    def handler(layer, x, emb, context, transformer_options, output_shape, *_):
        calls.append(transformer_options["block"])
        return layer(x, emb)

    model.set_model_forward_timestep_embed_patch((ResBlock, handler))
    assert torch.equal(sampled(model, steps=1), sampled(parts.model, steps=1))
    assert calls[0] == ("input", 1)


def test_a_guider_of_a_pack_is_a_subclass_that_samples(parts):
    import comfy.samplers

    class Doubled(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 - as packs write it
            out = comfy.samplers.calc_cond_batch(self.inner_model, [self.conds["positive"]], x, timestep, model_options)
            return out[0]

    guider = Doubled(parts.model)
    guider.set_conds(text(1), text(0))
    sigmas = steps_sigmas(parts.model.sampling, get_sampler("euler"), "normal", 2)
    noise = torch.ones(1, 4, 8, 8)
    plain = CFGGuider(parts.model)
    plain.set_conds(text(1), text(0))
    found = guider.sample(noise, torch.zeros_like(noise), get_sampler("euler"), sigmas, seed=1)
    assert torch.equal(found, plain.sample(noise, torch.zeros_like(noise), get_sampler("euler"), sigmas, seed=1))


NAMES = ["euler", "euler_ancestral", "heun", "dpm_2", "lms", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m",
         "dpmpp_2m_sde", "dpmpp_3m_sde", "ddpm", "lcm", "ipndm", "deis", "res_multistep", "gradient_estimation",
         "er_sde", "seeds_2", "sa_solver", "euler_cfg_pp", "euler_ancestral_cfg_pp"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_sampler_called_as_a_function_gives_what_it_gives_by_name(parts, name):
    import comfy.k_diffusion.sampling
    import comfy.samplers

    function = getattr(comfy.k_diffusion.sampling, f"sample_{name}")
    guider = CFGGuider(parts.model)
    guider.set_conds(text(1), text(0))
    guider.set_cfg(2.0)
    sigmas = steps_sigmas(parts.model.sampling, get_sampler("euler"), "karras", 3)
    noise = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(1))
    called = guider.sample(noise, torch.zeros_like(noise), comfy.samplers.KSAMPLER(function), sigmas, seed=5)
    named = guider.sample(noise, torch.zeros_like(noise), get_sampler(name), sigmas, seed=5)
    assert torch.allclose(called, named, atol=1e-4, rtol=1e-4)


def test_networks_are_built_with_the_references_arguments(base):
    from comfy.ldm.modules import attention
    from comfy.ldm.modules.diffusionmodules import openaimodel

    network = openaimodel.UNetModel(
        image_size=32, in_channels=4, model_channels=32, out_channels=4, num_res_blocks=1, channel_mult=(1, 2),
        attention_resolutions=[1, 2], transformer_depth=1, context_dim=8, num_heads=4, use_spatial_transformer=True,
    )  # fmt: skip
    x, context = torch.zeros(1, 4, 8, 8), torch.zeros(1, 3, 8)
    assert network(x, torch.zeros(1), context).shape == x.shape
    assert "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight" in network.state_dict()
    wide = torch.zeros(1, 32, 4, 4)
    assert openaimodel.Downsample(32, True, dims=2)(wide).shape[-1] == 2
    assert openaimodel.Upsample(32, True)(wide, output_shape=(1, 32, 7, 9)).shape[-2:] == (7, 9)
    assert openaimodel.ResBlock(32, 64, 0, out_channels=64)(wide, torch.zeros(1, 64)).shape == (1, 64, 4, 4)
    assert attention.SpatialTransformer(32, 2, 16, context_dim=8)(wide, context).shape == wide.shape
    rows = torch.zeros(1, 5, 16)
    assert attention.CrossAttention(16, 8, 2, 8)(rows, context).shape == rows.shape
    assert attention.BasicTransformerBlock(16, 2, 8, context_dim=8)(rows, context).shape == rows.shape


def test_a_latent_format_of_a_packs_own_is_sampled_with(parts):
    import comfy.latent_formats

    class Doubled(comfy.latent_formats.SD15):
        def process_out(self, latent):
            return super().process_out(latent) * 2

    model = parts.model.clone()
    model.add_object_patch("latent_format", Doubled())
    assert torch.allclose(sampled(model), sampled(parts.model) * 2, atol=1e-5)


def test_looking_at_a_network_calls_no_callbacks(parts):
    seen = []
    model = parts.model.clone()
    model.add_callback("on_load_after", lambda *args: seen.append(1))
    assert model.model.diffusion_model is model.get_model_object("diffusion_model")
    assert not seen


def test_a_control_of_a_packs_own_adds_to_the_network_in_its_range(parts):
    import comfy.controlnet
    import comfy.model_patcher

    seen = []

    class Mine(comfy.controlnet.ControlBase):
        def __init__(self):
            super().__init__()
            self.network = comfy.model_patcher.ModelPatcher(
                torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu")
            )

        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            if t[0] > self.timestep_range[0] or t[0] < self.timestep_range[1]:
                return None
            seen.append((batched_number, cond["c_crossattn"].shape[0]))
            residual = torch.ones(x_noisy.shape[0], 16, 4, 4)
            return self.control_merge({"middle": [residual]}, None, x_noisy.dtype)

        def get_models(self):
            return [self.network]

    control = Mine().set_cond_hint(torch.zeros(1, 3, 16, 16), 0.5, (0.0, 1.0))
    found = sampled(parts.model, positive=text(1, control=control, control_apply_to_uncond=True))
    assert seen == [(2, 2)] * 2
    assert not torch.allclose(found, sampled(parts.model))
    assert control.timestep_range is None
    late = Mine().set_cond_hint(torch.zeros(1, 3, 16, 16), 0.5, (1.0, 1.0))
    same = sampled(parts.model, positive=text(1, control=late, control_apply_to_uncond=True))
    assert torch.allclose(same, sampled(parts.model), atol=1e-5)


def test_lists_of_names_that_a_pack_assigns_are_those_of_the_nodes(base):
    import comfy.samplers

    before = list(comfy.samplers.KSampler.SAMPLERS)
    comfy.samplers.KSampler.SAMPLERS = [*before, "mine"]
    try:
        assert "mine" in comfy.samplers.SAMPLER_NAMES
    finally:
        comfy.samplers.KSampler.SAMPLERS = before
    assert before == comfy.samplers.SAMPLER_NAMES


def test_a_model_around_a_packs_network_has_objects_injections_and_hooks_of_its_own(base):
    import comfy.model_patcher
    from comfy.patcher_extension import PatcherInjection

    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    patcher = comfy.model_patcher.ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))
    seen = []
    patcher.set_injections("mine", [PatcherInjection(lambda p: seen.append("in"), lambda p: seen.append("out"))])
    patcher.add_object_patch("1", torch.nn.Tanh())
    assert isinstance(patcher.get_model_object("1"), torch.nn.Tanh)
    with patcher.loaded() as loaded:
        assert isinstance(loaded[1], torch.nn.Tanh)
    patcher.detach()
    assert isinstance(network[1], torch.nn.ReLU)
    assert seen == ["in", "out"]
