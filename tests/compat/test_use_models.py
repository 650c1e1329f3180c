"""Models, sampling, LoRAs and model patching by ComfyUI's names, on a small checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compat.using import place


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("use_models")
    with place(folder):
        yield folder


@pytest.fixture(scope="module")
def parts(base: Path) -> tuple[Any, ...]:
    """Model, CLIP, VAE of the small checkpoint."""
    import comfy.sd

    file = base / "models" / "checkpoints" / "tiny.safetensors"
    return comfy.sd.load_checkpoint_guess_config(str(file), output_vae=True, output_clip=True)[:3]


def conditioning(clip: Any, text: str) -> list[Any]:
    import nodes

    return nodes.CLIPTextEncode().encode(clip, text)[0]


# comfy.sd


def test_a_checkpoint_gives_model_text_encoder_and_autoencoder(base: Path, parts: tuple[Any, ...]) -> None:
    import comfy.model_patcher
    import comfy.sd

    model, clip, vae = parts
    assert isinstance(model, comfy.model_patcher.ModelPatcher)
    assert isinstance(clip, comfy.sd.CLIP)
    assert isinstance(vae, comfy.sd.VAE)
    file = str(base / "models" / "checkpoints" / "tiny.safetensors")
    only = comfy.sd.load_checkpoint_guess_config(file, output_vae=False, output_clip=False)
    assert only[1:3] == (None, None)
    assert only[0].model_size() == model.model_size()
    again = comfy.sd.load_checkpoint(ckpt_path=file, output_vae=False, output_clip=False)
    assert again[0].model.model_config is not None
    assert comfy.sd.CLIPType.STABLE_DIFFUSION.value == 1


def test_a_diffusion_model_is_made_of_its_tensors(base: Path, parts: tuple[Any, ...]) -> None:
    import comfy.sd
    import comfy.utils

    file = base / "models" / "checkpoints" / "tiny.safetensors"
    whole, metadata = comfy.utils.load_torch_file(str(file), return_metadata=True)
    start = "model.diffusion_model."
    own = {name.removeprefix(start): value for name, value in whole.items() if name.startswith(start)}
    model = comfy.sd.load_diffusion_model_state_dict(own, metadata=metadata)
    assert set(model.model.diffusion_model.state_dict()) == set(own)


def test_an_autoencoder_is_made_of_its_tensors(base: Path, parts: tuple[Any, ...]) -> None:
    import comfy.sd
    import comfy.utils

    file = base / "models" / "checkpoints" / "tiny.safetensors"
    whole, metadata = comfy.utils.load_torch_file(str(file), return_metadata=True)
    start = "first_stage_model."
    own = {name.removeprefix(start): value for name, value in whole.items() if name.startswith(start)}
    vae = comfy.sd.VAE(sd=own, metadata=metadata)
    assert vae.decode(torch.zeros(1, 4, 4, 4)).shape == (1, 8, 8, 3)


def test_a_lora_is_applied_to_model_and_text_encoder(parts: tuple[Any, ...]) -> None:
    import comfy.lora
    import comfy.sd

    model, clip, _ = parts
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    weight = model.model.diffusion_model.state_dict()["time_embed.0.weight"]
    lora = {
        "lora_unet_time_embed_0.lora_up.weight": torch.ones(weight.shape[0], 1),
        "lora_unet_time_embed_0.lora_down.weight": torch.ones(1, weight.shape[1]),
    }
    assert keys["lora_unet_time_embed_0"] == "diffusion_model.time_embed.0.weight"
    found = comfy.lora.load_lora(lora, keys)
    assert list(found) == ["diffusion_model.time_embed.0.weight"]
    changed, same = comfy.sd.load_lora_for_models(model, clip, lora, 0.5, 0.0)
    assert list(changed.patches) == ["diffusion_model.time_embed.0.weight"]
    assert not model.patches
    assert same is not None
    entry = [(0.5, found["diffusion_model.time_embed.0.weight"], 1.0, None, None)]
    patched = comfy.lora.calculate_weight(entry, weight.clone(), "diffusion_model.time_embed.0.weight")
    assert torch.allclose(patched, weight + 0.5)


# comfy.samplers, comfy.sample


def test_samplers_and_schedulers_are_lists_that_packs_add_to(base: Path) -> None:
    import comfy.samplers

    assert comfy.samplers.KSampler.SAMPLERS[0] == "euler"
    assert "karras" in comfy.samplers.KSampler.SCHEDULERS
    comfy.samplers.KSampler.SAMPLERS.append("mine")
    try:
        import nodes

        assert "mine" in nodes.KSampler.INPUT_TYPES()["required"]["sampler_name"][0]
    finally:
        comfy.samplers.KSampler.SAMPLERS.remove("mine")


def test_sigmas_are_those_of_the_scheduler(parts: tuple[Any, ...]) -> None:
    import comfy.samplers

    sampling = parts[0].get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 4)
    assert sigmas.shape == (5,)
    assert float(sigmas[-1]) == 0.0
    assert torch.isclose(sigmas[0], torch.as_tensor(sampling.sigma_max), rtol=1e-4)
    assert (sigmas[:-1] > sigmas[1:]).all()


def test_every_way_to_sample_gives_the_same_picture(parts: tuple[Any, ...]) -> None:
    import comfy.sample
    import comfy.samplers

    model, clip, _ = parts
    fox, nothing = conditioning(clip, "fox"), conditioning(clip, "")
    latent = comfy.sample.fix_empty_latent_channels(model, torch.zeros(1, 4, 8, 8))
    noise = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(3))
    how = (model, noise, 2, 3.0, "euler", "normal", fox, nothing, latent)
    first = comfy.sample.sample(*how, seed=3)

    sampler = comfy.samplers.KSampler(model, steps=2, device="cpu", sampler="euler", scheduler="normal", denoise=1.0)
    second = sampler.sample(noise, fox, nothing, cfg=3.0, latent_image=latent, seed=3)

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(fox, nothing)
    guider.set_cfg(3.0)
    sigmas = sampler.sigmas
    third = guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), sigmas, seed=3)

    euler = comfy.samplers.sampler_object("euler")
    fourth = comfy.samplers.sample(model, noise, fox, nothing, 3.0, "cpu", euler, sigmas, latent_image=latent, seed=3)
    assert isinstance(euler, comfy.samplers.KSAMPLER)
    for other in (second, third, fourth):
        assert torch.allclose(first, other, atol=1e-5)


def test_a_sampler_of_a_pack_is_called_in_the_older_form(parts: tuple[Any, ...]) -> None:
    import comfy.samplers
    from comfy.k_diffusion.sampling import to_d

    model, clip, _ = parts
    seen: list[float] = []

    def sample_mine(
        model: Any, x: Any, sigmas: Any, extra_args: Any = None, callback: Any = None, disable: Any = None
    ) -> Any:
        ones = x.new_ones([x.shape[0]])
        for i in range(len(sigmas) - 1):
            denoised = model(x, sigmas[i] * ones, **(extra_args or {}))
            seen.append(float(sigmas[i]))
            x = x + to_d(x, sigmas[i], denoised) * (sigmas[i + 1] - sigmas[i])
        return x

    fox = conditioning(clip, "fox")
    noise = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(3))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 2)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(fox, fox)
    mine = guider.sample(noise, torch.zeros_like(noise), comfy.samplers.KSAMPLER(sample_mine), sigmas, seed=3)
    euler = guider.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas, seed=3)
    assert torch.allclose(mine, euler, atol=1e-4), "it is Euler's method"
    assert seen == [float(sigma) for sigma in sigmas[:-1]]


def test_brownian_noise_of_a_seed_is_the_same_again(base: Path) -> None:
    from comfy.k_diffusion.sampling import BrownianTreeNoiseSampler

    x = torch.zeros(1, 4, 4, 4)
    first = BrownianTreeNoiseSampler(x, 0.1, 10.0, seed=4)
    second = BrownianTreeNoiseSampler(x, 0.1, 10.0, seed=4)
    assert torch.equal(first(torch.tensor(9.0), torch.tensor(5.0)), second(torch.tensor(9.0), torch.tensor(5.0)))


def test_conditions_are_unpacked_and_masks_fitted_for_sampling(parts: tuple[Any, ...]) -> None:
    from comfy.sampler_helpers import cleanup_additional_models, convert_cond, get_additional_models, prepare_mask

    tensor = torch.ones(1, 3, 2)
    (found,) = convert_cond([[tensor, {"strength": 0.5}]])
    assert torch.equal(found["cross_attn"], tensor)
    assert found["strength"] == 0.5
    mask = prepare_mask(torch.ones(1, 1, 16, 16), (2, 4, 4, 4), "cpu")
    assert mask.shape[-2:] == (4, 4)
    models, memory = get_additional_models({"positive": [found]}, torch.float32)
    cleanup_additional_models(models)
    assert (list(models), memory) == ([], 0)


# comfy.model_management, comfy.model_patcher, comfy.patcher_extension


def test_models_are_loaded_on_request_and_unloaded(parts: tuple[Any, ...]) -> None:
    import comfy.model_management

    model = parts[0]
    comfy.model_management.load_models_gpu([model])
    comfy.model_management.load_model_gpu(model)
    assert model.loaded_size() > 0
    comfy.model_management.unload_all_models()


def test_a_pack_that_replaces_loading_is_called_by_sampling(parts: tuple[Any, ...]) -> None:
    import comfy.model_management
    import comfy.sample

    original = comfy.model_management.load_models_gpu
    seen: list[Any] = []

    def mine(models: Any, *args: Any, **kwargs: Any) -> Any:
        seen.extend(models)
        return original(models, *args, **kwargs)

    model, clip, _ = parts
    fox = conditioning(clip, "fox")
    noise = torch.zeros(1, 4, 8, 8)
    comfy.model_management.load_models_gpu = mine
    try:
        comfy.sample.sample(model, noise, 1, 1.0, "euler", "normal", fox, fox, noise, seed=1)
    finally:
        comfy.model_management.load_models_gpu = original
    assert seen


def test_a_network_of_a_pack_is_patched_and_put_back(base: Path) -> None:
    import comfy.model_patcher

    network = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.zeros_(network.weight)
    patcher = comfy.model_patcher.ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))
    other = patcher.clone()
    other.add_patches({"weight": (torch.ones(2, 2),)}, 0.5)
    other.patch_model(torch.device("cpu"))
    assert network.weight.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    other.unpatch_model(torch.device("cpu"))
    assert not network.weight.any()
    assert other.is_clone(patcher)
    assert patcher.model_size() == 16


def test_a_wrapper_of_the_outer_sampling_sees_it(parts: tuple[Any, ...]) -> None:
    import comfy.patcher_extension
    import comfy.sample

    model, clip, _ = parts
    seen: list[int] = []

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(args))
        return executor(*args, **kwargs)

    changed = model.clone()
    changed.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, "mine", wrapper)
    fox = conditioning(clip, "fox")
    noise = torch.zeros(1, 4, 8, 8)
    comfy.sample.sample(changed, noise, 1, 1.0, "euler", "normal", fox, fox, noise, seed=1)
    assert len(seen) == 1
    comfy.sample.sample(model, noise, 1, 1.0, "euler", "normal", fox, fox, noise, seed=1)
    assert len(seen) == 1


# comfy.model_base, comfy.model_detection, comfy.latent_formats, comfy.ldm


def test_families_and_predictions_are_told_apart(parts: tuple[Any, ...]) -> None:
    import comfy.model_base

    base_model = parts[0].model
    assert isinstance(base_model, comfy.model_base.BaseModel)
    assert not isinstance(base_model, comfy.model_base.SDXL)
    assert base_model.model_type == comfy.model_base.ModelType.EPS


def test_latents_are_scaled_by_their_format(base: Path) -> None:
    import comfy.latent_formats

    x = torch.ones(1, 4, 2, 2)
    for form, scale in ((comfy.latent_formats.SD15(), 0.18215), (comfy.latent_formats.SDXL(), 0.13025)):
        assert torch.allclose(form.process_in(x), x * scale)
        assert torch.allclose(form.process_out(form.process_in(x)), x)
        assert len(form.latent_rgb_factors) == 4


def test_a_unet_is_described_by_its_tensors(base: Path, parts: tuple[Any, ...]) -> None:
    import comfy.model_detection

    names = parts[0].model.diffusion_model.state_dict()
    assert comfy.model_detection.count_blocks(names, "input_blocks.{}.") == len(
        {name.split(".")[1] for name in names if name.startswith("input_blocks.")}
    )
    assert comfy.model_detection.unet_config_from_diffusers_unet({"down_blocks.0.x": torch.ones(1)}) is None
    plain = {
        "num_res_blocks": 2,
        "channel_mult": [1, 2, 4, 4],
        "attention_resolutions": [4, 2, 1],
        "transformer_depth": [1, 1, 1, 0],
    }
    found = comfy.model_detection.convert_config({**plain, "transformer_depth": 1})
    assert found["num_res_blocks"] == [2, 2, 2, 2]


def test_attention_is_softmax_of_scaled_products(base: Path) -> None:
    from comfy.ldm.modules.attention import optimized_attention

    q, k, v = (torch.randn(1, 5, 8, generator=torch.manual_seed(i)) for i in range(3))
    found = optimized_attention(q, k, v, heads=2)
    split = [t.view(1, 5, 2, 4).transpose(1, 2) for t in (q, k, v)]
    weights = (split[0] @ split[1].transpose(-1, -2) / 2).softmax(-1)
    assert torch.allclose(found, (weights @ split[2]).transpose(1, 2).reshape(1, 5, 8), atol=1e-5)


def test_the_networks_blocks_are_classes_that_packs_know(parts: tuple[Any, ...]) -> None:
    from comfy.ldm.modules.attention import BasicTransformerBlock
    from comfy.ldm.modules.diffusionmodules import openaimodel

    network = parts[0].model.diffusion_model
    assert isinstance(network, openaimodel.UNetModel)
    assert any(isinstance(one, BasicTransformerBlock) for one in network.modules())
    smaller = next(one for one in network.modules() if isinstance(one, openaimodel.Downsample))
    half = smaller(torch.zeros(1, smaller.op.weight.shape[1], 8, 8))
    assert half.shape[-2:] == (4, 4)


def test_the_text_encoders_of_sdxl_are_classes_that_nothing_here_is(parts: tuple[Any, ...]) -> None:
    from comfy.sdxl_clip import SDXLClipG, SDXLClipModel, SDXLRefinerClipModel

    encoder = parts[1].cond_stage_model
    for cls in (SDXLClipG, SDXLClipModel, SDXLRefinerClipModel):
        assert not isinstance(encoder, cls)


def test_what_is_not_supported_yet_is_importable_and_says_so(base: Path) -> None:
    import comfy.sd

    from limner.errors import LimnerError

    with pytest.raises(LimnerError, match="not support"):
        comfy.sd.load_gligen("some.safetensors")


async def test_a_sampler_that_a_pack_adds_is_offered_and_run_by_the_built_in_node(base: Path) -> None:
    import comfy.k_diffusion.sampling
    import comfy.samplers

    from limner.compat.builtin import fill_tables
    from limner.compat.finder import current
    from limner.compat.packs import PackSource

    finder = current()
    assert finder is not None
    source = PackSource(finder.host)
    fill_tables(finder.host)
    assert not source.overrides("KSampler")

    def sample_mine(
        model: Any, x: Any, sigmas: Any, extra_args: Any = None, callback: Any = None, disable: Any = None
    ) -> Any:
        return torch.full_like(x, 0.25)

    comfy.k_diffusion.sampling.sample_mine = sample_mine
    comfy.samplers.KSampler.SAMPLERS.append("mine")
    try:
        assert source.overrides("KSampler")
        assert not source.overrides("CLIPTextEncode")
        schema = source.schema("KSampler")
        port = None if schema is None else schema.input("sampler_name")
        assert port is not None
        assert port.choices is not None
        assert port.choices[-1] == "mine"
        import nodes

        model, clip, _ = nodes.CheckpointLoaderSimple().load_checkpoint("tiny.safetensors")
        fox = conditioning(clip, "fox")
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        call = source.function("KSampler", source.make("KSampler"))
        result = call(
            model=model,
            seed=1,
            steps=1,
            cfg=1.0,
            sampler_name="mine",
            scheduler="normal",
            positive=fox,
            negative=fox,
            latent_image=latent,
            denoise=1.0,
        )
        assert torch.allclose(result.values[0]["samples"], torch.tensor(0.25 / 0.18215))
    finally:
        comfy.samplers.KSampler.SAMPLERS.remove("mine")
        del comfy.k_diffusion.sampling.sample_mine
    assert not source.overrides("KSampler")
