"""Names that one of the scanned packs uses: the arithmetic ones, held against values worked out here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.compat.using import place


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("use_more")
    with place(folder):
        yield folder


@pytest.fixture(scope="module")
def parts(base: Path) -> tuple[Any, ...]:
    import comfy.sd

    return comfy.sd.load_checkpoint_guess_config(str(base / "models" / "checkpoints" / "tiny.safetensors"))[:3]


def conditioning(clip: Any, text: str) -> list[Any]:
    import nodes

    return nodes.CLIPTextEncode().encode(clip, text)[0]


# comfy.k_diffusion


def test_an_ancestral_step_splits_the_variance(base: Path) -> None:
    from comfy.k_diffusion.sampling import get_ancestral_step

    down, up = get_ancestral_step(4.0, 2.0, eta=1.0)
    assert float(up) == pytest.approx(math.sqrt(4 * (16 - 4) / 16))
    assert float(down) ** 2 + float(up) ** 2 == pytest.approx(4.0)
    assert get_ancestral_step(4.0, 2.0, eta=0.0) == (2.0, 0.0)


SAMPLERS = ["dpmpp_2m_sde", "dpmpp_2m_sde_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "dpmpp_sde", "dpmpp_sde_gpu"]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_called_by_its_function_ends_where_the_model_points(base: Path, name: str) -> None:
    import comfy.k_diffusion.sampling as kd

    functions = {
        "dpmpp_2m_sde": kd.sample_dpmpp_2m_sde,
        "dpmpp_2m_sde_gpu": kd.sample_dpmpp_2m_sde_gpu,
        "dpmpp_3m_sde": kd.sample_dpmpp_3m_sde,
        "dpmpp_3m_sde_gpu": kd.sample_dpmpp_3m_sde_gpu,
        "dpmpp_sde": kd.sample_dpmpp_sde,
        "dpmpp_sde_gpu": kd.sample_dpmpp_sde_gpu,
    }
    seen: list[dict[str, Any]] = []

    def model(x: Any, sigma: Any, **extra: Any) -> Any:
        return torch.full_like(x, 0.5)

    sigmas = torch.tensor([10.0, 4.0, 1.0, 0.0])
    x = torch.randn(1, 4, 4, 4, generator=torch.manual_seed(1)) * 10
    found = functions[name](model, x, sigmas, extra_args={"seed": 3}, callback=seen.append, disable=True)
    assert torch.allclose(found, torch.full_like(x, 0.5), atol=1e-4)
    assert [one["i"] for one in seen] == [0, 1, 2]


def test_noise_of_the_samplers_is_drawn_like_x(base: Path) -> None:
    import comfy.k_diffusion.sampling

    x = torch.zeros(2, 3)
    noise = comfy.k_diffusion.sampling.default_noise_sampler(x, seed=5)(1.0, 0.5)
    assert noise.shape == x.shape
    assert noise.std() > 0
    assert comfy.k_diffusion.sampling.torch is torch


# comfy.samplers, comfy.sample


def test_noise_is_drawn_on_the_cpu_by_seed_and_for_items_of_a_batch(base: Path) -> None:
    # rule S1
    import comfy.sample

    latent = torch.zeros(2, 4, 3, 3)
    whole = comfy.sample.prepare_noise(latent, 9)
    assert torch.equal(whole, torch.randn(2, 4, 3, 3, generator=torch.manual_seed(9)))
    generator = torch.manual_seed(9)
    drawn = [torch.randn(1, 4, 3, 3, generator=generator) for _ in range(3)]
    assert torch.equal(comfy.sample.prepare_noise(latent, 9, [2, 1]), torch.cat([drawn[2], drawn[1]]))
    assert comfy.sample.np.array([1]).tolist() == [1]


def test_sampling_with_own_sigmas_is_sampling_by_the_guider(parts: tuple[Any, ...]) -> None:
    import comfy.sample
    import comfy.samplers

    model, clip, _ = parts
    fox = conditioning(clip, "fox")
    noise = comfy.sample.prepare_noise(torch.zeros(1, 4, 8, 8), 2)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "karras", 2)
    euler = comfy.samplers.sampler_object("euler")
    first = comfy.sample.sample_custom(model, noise, 2.0, euler, sigmas, fox, fox, torch.zeros_like(noise), seed=2)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(fox, fox)
    guider.set_cfg(2.0)
    assert torch.allclose(first, guider.sample(noise, torch.zeros_like(noise), euler, sigmas, seed=2), atol=1e-5)
    sampler = comfy.samplers.KSampler(model, 2, "cpu", "euler", "karras")
    assert torch.allclose(sampler.sample(noise, fox, fox, 2.0, torch.zeros_like(noise), seed=2), first, atol=1e-5)


def test_names_of_samplers_and_schedulers_are_the_lists_of_the_class(base: Path) -> None:
    import comfy.samplers

    assert comfy.samplers.SAMPLER_NAMES is comfy.samplers.KSampler.SAMPLERS
    assert comfy.samplers.SCHEDULER_NAMES is comfy.samplers.KSampler.SCHEDULERS
    assert comfy.samplers.KSampler.SAMPLERS.index("euler") == 0
    comfy.samplers.KSampler.SAMPLERS.insert(1, "tmp")
    comfy.samplers.KSampler.SAMPLERS.remove("tmp")
    assert comfy.samplers.k_diffusion_sampling.to_d(torch.tensor(3.0), torch.tensor(2.0), torch.tensor(1.0)) == 1.0
    assert issubclass(comfy.samplers.KSAMPLER, comfy.samplers.Sampler)


def test_a_noise_as_strong_as_it_gets_is_known(parts: tuple[Any, ...]) -> None:
    import comfy.samplers

    sampler = comfy.samplers.sampler_object("euler")
    sampling = parts[0].get_model_object("model_sampling")
    guider = comfy.samplers.CFGGuider(parts[0])
    most = torch.as_tensor(sampling.sigma_max)
    assert comfy.samplers.Sampler.max_denoise(sampler, guider, most.reshape(1))
    assert not comfy.samplers.Sampler.max_denoise(sampler, guider, most.reshape(1) / 2)


def test_guidance_mixes_the_two_predictions(base: Path) -> None:
    import comfy.samplers

    x, sigma = torch.zeros(1, 4, 2, 2), torch.ones(1)

    class Model:
        current_patcher = None
        memory_required = staticmethod(lambda *_, **__: 0)

    def batch(args: dict[str, Any]) -> list[torch.Tensor]:
        return [torch.full_like(x, 3.0) if cond == ["yes"] else torch.full_like(x, 1.0) for cond in args["conds"]]

    options = {"sampler_calc_cond_batch_function": batch}
    found = comfy.samplers.sampling_function(Model(), x, sigma, ["no"], ["yes"], 2.5, model_options=options)
    assert torch.allclose(found, torch.full_like(x, 1.0 + 2.5 * (3.0 - 1.0)))


def test_conditions_of_one_form_are_joined_into_a_batch(base: Path) -> None:
    import comfy.conds
    import comfy.samplers

    one, two = ({"c": comfy.conds.CONDRegular(torch.full((1, 2), value))} for value in (1.0, 2.0))
    found = comfy.samplers.cond_cat([one, two])
    assert found["c"].tolist() == [[1.0, 1.0], [2.0, 2.0]]
    assert comfy.conds.CONDRegular(torch.ones(1, 2)).can_concat(comfy.conds.CONDRegular(torch.zeros(1, 2)))
    assert not comfy.conds.CONDRegular(torch.ones(1, 2)).can_concat(comfy.conds.CONDRegular(torch.ones(1, 3)))


# comfy.utils


def test_latents_of_several_shapes_are_packed_and_unpacked(base: Path) -> None:
    import comfy.utils

    latents = [torch.rand(1, 4, 2, 3), torch.rand(1, 8, 5)]
    packed, shapes = comfy.utils.pack_latents(latents)
    assert packed.numel() == 24 + 40
    for before, after in zip(latents, comfy.utils.unpack_latents(packed, shapes), strict=True):
        assert torch.equal(before, after)


def test_weights_are_counted_and_their_commonest_dtype_found(base: Path) -> None:
    import comfy.utils

    weights = {"a.x": torch.ones(3, 4), "a.y": torch.ones(2, dtype=torch.float16), "b.z": torch.ones(5)}
    assert comfy.utils.calculate_parameters(weights) == 19
    assert comfy.utils.calculate_parameters(weights, "a.") == 14
    assert comfy.utils.weight_dtype(weights) == torch.float32
    assert comfy.utils.weight_dtype(weights, "a.y") == torch.float16


def test_batches_are_repeated_to_a_length(base: Path) -> None:
    import comfy.utils

    batch = torch.tensor([[1.0], [2.0]])
    assert comfy.utils.repeat_to_batch_size(batch, 5).flatten().tolist() == [1, 2, 1, 2, 1]
    assert comfy.utils.repeat_to_batch_size(batch, 1).flatten().tolist() == [1]


def test_parameters_are_set_and_copied_by_dotted_names(base: Path) -> None:
    import comfy.utils

    module = nn.Sequential(nn.Linear(1, 1, bias=False))
    comfy.utils.set_attr_param(module, "0.weight", torch.full((1, 1), 3.0))
    assert isinstance(module[0].weight, nn.Parameter)
    assert not module[0].weight.requires_grad
    kept = module[0].weight
    comfy.utils.copy_to_param(module, "0.weight", torch.full((1, 1), 4.0))
    assert (module[0].weight is kept, float(kept)) == (True, 4.0)


def test_a_video_is_scaled_in_tiles_of_three_dimensions(base: Path) -> None:
    import comfy.utils

    video = torch.rand(1, 2, 4, 12, 8)

    def double(tile: torch.Tensor) -> torch.Tensor:
        return tile.repeat_interleave(2, -1).repeat_interleave(2, -2).repeat_interleave(2, -3)

    found = comfy.utils.tiled_scale_multidim(video, double, tile=(4, 8, 8), overlap=2, upscale_amount=2, out_channels=2)
    assert torch.allclose(found, double(video), atol=1e-5)


def test_pictures_are_scaled_by_lanczos_and_names_of_the_unets_parts_are_translated(base: Path) -> None:
    import comfy.utils

    flat = comfy.utils.lanczos(torch.full((1, 3, 8, 8), 0.5), 4, 4)
    assert torch.allclose(flat, torch.full((1, 3, 4, 4), 0.5), atol=0.01)
    assert "transformer_blocks" not in comfy.utils.UNET_MAP_ATTENTIONS
    assert ("in_layers.2.weight", "conv1.weight") in comfy.utils.UNET_MAP_RESNET.items()
    assert "norm1.weight" in comfy.utils.TRANSFORMER_BLOCKS
    plain = {
        "num_res_blocks": [1, 1],
        "channel_mult": [1, 2],
        "transformer_depth": [1, 1],
        "transformer_depth_output": [1, 1, 1, 1],
        "transformer_depth_middle": 1,
    }
    names = comfy.utils.unet_to_diffusers(plain)
    assert names["down_blocks.0.resnets.0.conv1.weight"] == "input_blocks.1.0.in_layers.2.weight"
    assert names["conv_in.weight"] == "input_blocks.0.0.weight"


# comfy.model_management


def test_interruption_goes_to_the_engine_and_is_raised_in_the_running_node(base: Path, tmp_path: Path) -> None:
    # rule R4
    import comfy.model_management as mm
    import nodes

    from limner.compat.host import current
    from tests.compat.v3.make import running

    stopped: list[int] = []

    class Engine:
        def interrupt(self) -> None:
            stopped.append(1)

    host = current()
    host.engine = Engine()
    try:
        nodes.interrupt_processing()
        mm.interrupt_current_processing()
        mm.interrupt_current_processing(False)
    finally:
        host.engine = None
    assert stopped == [1, 1]
    mm.throw_exception_if_processing_interrupted()
    with running(tmp_path) as run:

        def check() -> None:
            raise mm.InterruptProcessingException

        run.sink.check = check
        with pytest.raises(mm.InterruptProcessingException):
            mm.throw_exception_if_processing_interrupted()


def test_the_rest_of_what_packs_ask_of_devices(base: Path, parts: tuple[Any, ...]) -> None:
    import comfy.model_management as mm

    cpu = torch.device("cpu")
    assert mm.cast_to(torch.ones(1), torch.float16, cpu).dtype == torch.float16
    assert mm.device_supports_non_blocking(cpu) in (True, False)
    assert mm.get_autocast_device(cpu) == "cpu"
    assert mm.in_training() is False
    assert mm.intermediate_dtype() == torch.float32
    assert mm.is_directml_enabled() is False
    assert mm.text_encoder_dtype(cpu) in (torch.float32, torch.float16, torch.bfloat16)
    assert mm.vae_dtype(cpu) in (torch.float32, torch.bfloat16)
    assert mm.vae_offload_device() == cpu
    assert mm.xformers_enabled() is False
    mm.load_model_gpu(parts[0])
    assert any(parts[0].is_clone(one) for one in mm.loaded_models())
    mm.unload_model_clones(parts[0])
    mm.free_memory(1e30, cpu)
    assert mm.loaded_models() == []
    with pytest.raises(ZeroDivisionError):
        mm.raise_non_oom(ZeroDivisionError())
    mm.raise_non_oom(torch.OutOfMemoryError())


# comfy.ops, comfy.float


def test_layers_of_every_kind_compute_as_torchs_do(base: Path) -> None:
    import comfy.ops

    torch.manual_seed(0)
    image = torch.rand(1, 4, 6, 6)
    pairs = [
        (comfy.ops.disable_weight_init.Conv2d(4, 2, 3), nn.Conv2d(4, 2, 3), image),
        (comfy.ops.manual_cast.Conv2d(4, 2, 3), nn.Conv2d(4, 2, 3), image),
        (comfy.ops.disable_weight_init.Conv3d(4, 2, 3), nn.Conv3d(4, 2, 3), torch.rand(1, 4, 4, 6, 6)),
        (comfy.ops.disable_weight_init.GroupNorm(2, 4), nn.GroupNorm(2, 4), image),
        (comfy.ops.manual_cast.GroupNorm(2, 4), nn.GroupNorm(2, 4), image),
        (comfy.ops.manual_cast.LayerNorm(6), nn.LayerNorm(6), image),
        (comfy.ops.manual_cast.Embedding(5, 3), nn.Embedding(5, 3), torch.tensor([1, 4])),
    ]
    for ours, theirs, x in pairs:
        ours.load_state_dict(theirs.state_dict())
        assert torch.allclose(ours(x), theirs(x), atol=1e-6), type(theirs).__name__


def test_weights_are_cast_to_the_input_and_handed_back(base: Path) -> None:
    import comfy.ops

    layer = comfy.ops.manual_cast.Linear(2, 2, dtype=torch.float16)
    with torch.no_grad():
        layer.weight.fill_(1)
        layer.bias.fill_(2)
    weight, bias = comfy.ops.cast_bias_weight(layer, torch.ones(1, 2))
    assert (weight.dtype, bias.dtype) == (torch.float32, torch.float32)
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, torch.ones(1, 2), offloadable=True)
    comfy.ops.uncast_bias_weight(layer, weight, bias, stream)
    assert comfy.ops.cast_to(torch.ones(1), torch.float16).dtype == torch.float16


def test_rounding_by_chance_is_right_in_the_mean(base: Path) -> None:
    import comfy.float

    value = torch.full((4000,), 1.0 + 0.25 * 2**-3)
    found = comfy.float.stochastic_rounding(value, torch.float8_e4m3fn, seed=1).float()
    assert set(found.tolist()) <= {1.0, 1.125}
    assert abs(float(found.mean()) - float(value[0])) < 0.01


# comfy.patcher_extension, comfy.model_patcher, comfy.model_sampling, comfy.ldm


def test_wrappers_are_kept_by_key_in_the_options(base: Path) -> None:
    import comfy.patcher_extension as pe

    options: dict[str, Any] = {}
    wrapper = lambda executor, *args: executor(*args)  # noqa: E731
    pe.add_wrapper_with_key(pe.WrappersMP.DIFFUSION_MODEL, "mine", wrapper, options)
    assert pe.get_wrappers_with_key(pe.WrappersMP.DIFFUSION_MODEL, "mine", options) == [wrapper]
    assert pe.get_wrappers_with_key(pe.WrappersMP.APPLY_MODEL, "mine", options) == []
    assert (pe.WrappersMP.APPLY_MODEL, pe.WrappersMP.PREPARE_SAMPLING) == ("apply_model", "prepare_sampling")
    assert (pe.CallbacksMP.ON_CLEANUP, pe.CallbacksMP.ON_PRE_RUN) == ("on_cleanup", "on_pre_run")
    assert pe.CallbacksMP.ON_LOAD


def test_an_injection_changes_the_network_while_it_is_used(parts: tuple[Any, ...]) -> None:
    import comfy.patcher_extension

    seen: list[str] = []
    model = parts[0].clone()
    injection = comfy.patcher_extension.PatcherInjection(lambda _: seen.append("in"), lambda _: seen.append("out"))
    model.set_injections("mine", [injection])
    with model.loaded():
        assert seen[-1] == "in"
    assert seen[-1] == "out"


def test_options_are_cloned_so_that_changes_stay_apart(base: Path) -> None:
    from comfy.model_patcher import ModelPatcher, create_model_options_clone

    before: dict[str, Any] = {"transformer_options": {"patches": {"attn1_patch": [1]}}}
    after = create_model_options_clone(before)
    after["transformer_options"]["patches"]["attn1_patch"].append(2)
    assert before["transformer_options"]["patches"]["attn1_patch"] == [1]
    patcher = ModelPatcher(nn.Linear(2, 2), torch.device("cpu"), torch.device("cpu"))
    found = patcher.calculate_weight(
        [(0.5, ("diff", (torch.ones(2, 2),)), 1.0, None, None)], torch.zeros(2, 2), "weight"
    )
    assert found.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_the_time_of_flow_models_is_shifted(base: Path) -> None:
    import comfy.model_sampling

    assert comfy.model_sampling.time_snr_shift(3.0, 0.5) == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))
    flow = comfy.model_sampling.CONST()
    x, noise = torch.ones(1, 1), torch.full((1, 1), 3.0)
    assert float(flow.noise_scaling(torch.tensor(0.25), noise, x)) == pytest.approx(0.25 * 3 + 0.75)
    assert float(flow.calculate_denoised(torch.tensor(0.5), noise, x)) == pytest.approx(1 - 0.5 * 3)


def test_small_functions_of_the_networks(base: Path) -> None:
    import comfy.ldm.common_dit
    import comfy.ldm.modules.attention
    import comfy.ldm.util
    from comfy.ldm.flux.math import apply_rope
    from comfy.ldm.modules.diffusionmodules import util
    from comfy.ldm.modules.diffusionmodules.openaimodel import apply_control

    t = util.timestep_embedding(torch.tensor([0.0, 1.0]), 4)
    assert torch.allclose(t[0], torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert torch.allclose(t[1], torch.tensor([math.cos(1), math.cos(0.01), math.sin(1), math.sin(0.01)]), atol=1e-6)
    assert not any(p.any() for p in util.zero_module(nn.Linear(2, 2)).parameters())
    assert comfy.ldm.util.exists(0)
    assert not comfy.ldm.util.exists(None)
    x = torch.rand(2, 3)
    rms = comfy.ldm.common_dit.rms_norm(x)
    assert torch.allclose(rms, x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt(), atol=1e-3)
    q, k = torch.rand(1, 1, 2, 4), torch.rand(1, 1, 2, 4)
    still = torch.eye(2).expand(1, 1, 2, 2, 2, 2)
    assert torch.allclose(apply_rope(q, k, still)[0], q)
    h = torch.zeros(1, 2)
    assert float(apply_control(h, {"output": [torch.ones(1, 2)]}, "output").sum()) == 2.0
    assert apply_control(h, None, "output") is h
    for function in (
        comfy.ldm.modules.attention.attention_pytorch,
        comfy.ldm.modules.attention.optimized_attention_masked,
    ):
        assert function(torch.rand(1, 3, 4), torch.rand(1, 3, 4), torch.rand(1, 3, 4), 2).shape == (1, 3, 4)


# comfy_extras, nodes


def test_nodes_for_sampling_with_parts_of_ones_own(parts: tuple[Any, ...]) -> None:
    from comfy.samplers import sampler_object
    from comfy_extras.nodes_custom_sampler import (
        BasicGuider,
        BasicScheduler,
        Guider_Basic,
        Noise_EmptyNoise,
        Noise_RandomNoise,
        SamplerCustom,
        SamplerCustomAdvanced,
    )

    model, clip, _ = parts
    fox = conditioning(clip, "fox")
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    sigmas = BasicScheduler.execute(model, "normal", 2, 1.0)[0]
    guider = BasicGuider.execute(model, fox)[0]
    own = Guider_Basic(model)
    own.set_conds(fox)
    euler = sampler_object("euler")
    first = SamplerCustomAdvanced.execute(Noise_RandomNoise(4), guider, euler, sigmas, latent)[0]["samples"]
    second = SamplerCustomAdvanced.execute(Noise_RandomNoise(4), own, euler, sigmas, latent)[0]["samples"]
    third = SamplerCustom.execute(model, True, 4, 1.0, fox, fox, euler, sigmas, latent)[0]["samples"]
    assert torch.allclose(first, second, atol=1e-5)
    assert torch.allclose(first, third, atol=1e-5)
    assert not Noise_EmptyNoise().generate_noise(latent).any()


def test_nodes_of_masks_latents_and_pictures(base: Path) -> None:
    import nodes
    from comfy_extras.nodes_compositing import JoinImageWithAlpha
    from comfy_extras.nodes_mask import GrowMask, LatentCompositeMasked

    mask = torch.zeros(1, 5, 5)
    mask[0, 2, 2] = 1
    assert float(GrowMask.execute(mask, 1, True)[0].sum()) == 5.0
    ones = {"samples": torch.ones(1, 4, 2, 2)}
    laid = LatentCompositeMasked.execute({"samples": torch.zeros(1, 4, 4, 4)}, ones, 8, 8, False)[0]["samples"]
    assert float(laid.sum()) == 4 * 4
    joined = JoinImageWithAlpha.execute(torch.zeros(1, 2, 2, 3), torch.full((1, 2, 2), 0.25))[0]
    assert joined[..., 3].unique().tolist() == [0.75]
    assert nodes.ImageBatch().batch(torch.zeros(1, 2, 2, 3), torch.ones(2, 2, 2, 3))[0].shape == (3, 2, 2, 3)
    assert nodes.LatentFromBatch().frombatch({"samples": torch.arange(3.0).view(3, 1, 1, 1)}, 1, 1)[0]["samples"] == 1
    assert nodes.RepeatLatentBatch().repeat(ones, 3)[0]["samples"].shape[0] == 3
    over = nodes.LatentComposite().composite({"samples": torch.zeros(1, 4, 4, 4)}, ones, 16, 0)[0]["samples"]
    assert float(over[..., :2, 2:].sum()) == 16.0
    assert nodes.LatentUpscaleBy.INPUT_TYPES()["required"]["scale_by"][0] == "FLOAT"
    assert nodes.NODE_CLASS_MAPPINGS.get("KSampler") is nodes.KSampler
    assert "KSamplerAdvanced" in nodes.NODE_CLASS_MAPPINGS.keys()  # noqa: SIM118 - as packs ask
    assert nodes.KSamplerAdvanced.FUNCTION == "sample"


def test_layers_of_the_unet_are_built_by_the_references_arguments(base: Path) -> None:
    from comfy.ldm.modules.attention import SpatialTransformer
    from comfy.ldm.modules.diffusionmodules.openaimodel import (
        Downsample,
        ResBlock,
        TimestepEmbedSequential,
        UNetModel,
        Upsample,
        forward_timestep_embed,
    )

    x = torch.rand(1, 32, 6, 6)
    assert Downsample(32, True)(x).shape == (1, 32, 3, 3)
    assert Upsample(32, True, out_channels=16)(x).shape == (1, 16, 12, 12)
    layer = ResBlock(32, 8, 0.0, out_channels=64)
    assert layer(x, torch.rand(1, 8)).shape == (1, 64, 6, 6)
    both = TimestepEmbedSequential([layer])
    assert torch.allclose(forward_timestep_embed(both, x, torch.ones(1, 8)), layer(x, torch.ones(1, 8)))
    unet = UNetModel(
        image_size=8,
        in_channels=4,
        model_channels=32,
        out_channels=4,
        num_res_blocks=[1, 1],
        channel_mult=(1, 2),
        num_heads=2,
        use_spatial_transformer=True,
        transformer_depth=[1, 0],
        transformer_depth_output=[1, 1, 0, 0],
        transformer_depth_middle=1,
        context_dim=8,
    )
    assert any(isinstance(one, SpatialTransformer) for one in unet.modules())
    found = unet(torch.rand(1, 4, 8, 8), torch.tensor([3.0]), torch.rand(1, 5, 8))
    assert found.shape == (1, 4, 8, 8)


def test_types_of_text_encoders_are_told_apart(base: Path, parts: tuple[Any, ...]) -> None:
    import comfy.sd
    import comfy.sd1_clip
    import comfy.supported_models

    kinds = (
        comfy.sd.CLIPType.FLUX,
        comfy.sd.CLIPType.SD3,
        comfy.sd.CLIPType.STABLE_AUDIO,
        comfy.sd.CLIPType.STABLE_CASCADE,
    )
    assert len({kind.value for kind in kinds}) == 4
    assert isinstance(parts[1].cond_stage_model, comfy.sd1_clip.SD1ClipModel)
    config = parts[0].model.model_config
    assert isinstance(config, comfy.supported_models.SD15)
    assert not isinstance(config, comfy.supported_models.SDXL)
    assert comfy.supported_models.SD15 in comfy.supported_models.models
