"""Vision encoders, style models and autoencoders by ComfyUI's names, as packs use them."""

import pytest
import torch

from limner.errors import LimnerError
from limner.weights import save
from tests.models.vae.make import TINY_WAN, noise, tiny_wan, video_vae
from tests.models.vision.make import clip_vision, open_clip, redux, style_model, tiny_vision

IMAGE = torch.rand(2, 16, 24, 3, generator=torch.Generator().manual_seed(1))


def test_a_vision_encoder_is_loaded_asked_and_run_by_hand(base):
    import comfy.clip_vision
    import comfy.model_management

    file = base / "vision.safetensors"
    save(file, tiny_vision().state_dict())
    encoder = comfy.clip_vision.load(str(file))
    assert isinstance(encoder, comfy.clip_vision.ClipVisionModel)
    comfy.model_management.load_model_gpu(encoder.patcher)
    pixels = comfy.clip_vision.clip_preprocess(IMAGE.to(encoder.load_device), size=encoder.image_size).float()
    out = encoder.model(pixel_values=pixels, intermediate_output=-2)
    seen = encoder.encode_image(IMAGE)
    assert isinstance(seen, comfy.clip_vision.Output)
    assert torch.equal(out[0], seen["last_hidden_state"])
    assert torch.equal(out[1], seen["penultimate_hidden_states"])
    assert torch.equal(out[2], seen.image_embeds)
    assert "clip_vision_model" in comfy.clip_vision.IMAGE_ENCODERS
    with pytest.raises(LimnerError, match="not support"):
        comfy.clip_vision.ClipVisionModel("config.json")


def test_a_vision_encoder_is_made_of_tensors_in_either_layout(base):
    import comfy.clip_model
    import comfy.clip_vision

    tensors = {f"visual.{name}": value for name, value in open_clip(tiny_vision()).items()}
    encoder = comfy.clip_vision.load_clipvision_from_sd(tensors, prefix="visual.", convert_keys=True)
    expected = clip_vision().encode_image(IMAGE).image_embeds
    assert torch.allclose(encoder.encode_image(IMAGE).image_embeds, expected, atol=1e-5)
    assert isinstance(encoder.model, comfy.clip_model.CLIPVisionModelProjection)
    assert isinstance(encoder.model.vision_model, comfy.clip_model.CLIPVision)
    assert comfy.clip_vision.load_clipvision_from_sd({"a": torch.zeros(1)}) is None
    converted = comfy.clip_vision.convert_to_transformers(tensors, "visual.")
    assert set(converted) == set(tiny_vision().state_dict())


def test_a_checkpoint_gives_its_vision_encoder_when_it_is_asked_for(base, file):
    import comfy.sd
    import comfy.utils

    whole, metadata = comfy.utils.load_torch_file(str(file), return_metadata=True)
    whole |= {f"embedder.model.visual.{name}": value for name, value in open_clip(tiny_vision()).items()}
    found = comfy.sd.load_state_dict_guess_config(whole, output_clipvision=True, metadata=metadata)
    assert found[3].image_size == 16
    assert comfy.sd.load_state_dict_guess_config(whole, metadata=metadata)[3] is None
    assert comfy.sd.load_checkpoint_guess_config(str(file), output_clipvision=True)[3] is None


def test_style_models_are_loaded_and_made_around_a_network(base):
    import comfy.ldm.flux.redux
    import comfy.sd

    seen = clip_vision().encode_image(IMAGE)
    file = base / "redux.safetensors"
    save(file, redux().state_dict())
    loaded = comfy.sd.load_style_model(str(file))
    expected = style_model().get_cond(seen)
    assert isinstance(loaded, comfy.sd.StyleModel)
    assert torch.equal(loaded.get_cond(seen), expected)
    network = comfy.ldm.flux.redux.ReduxImageEncoder(redux_dim=16, txt_in_features=8, dtype=torch.float32)
    network.load_state_dict(redux().state_dict())
    assert isinstance(loaded.model, comfy.ldm.flux.redux.ReduxImageEncoder)
    assert torch.allclose(comfy.sd.StyleModel(network).get_cond(seen), expected, atol=1e-5)


def test_the_video_autoencoder_is_made_by_its_dimensions(base):
    import comfy.ldm.wan.vae
    from comfy.ldm.wan.vae import CausalConv3d, RMS_norm

    made = comfy.ldm.wan.vae.WanVAE(
        dim=4, z_dim=3, dim_mult=[1, 2, 2], num_res_blocks=1, attn_scales=[], temperal_downsample=[False, True]
    )
    assert made.config == TINY_WAN
    made.load_state_dict(tiny_wan().state_dict())
    latent = noise(1, 3, 2, 4, 4)
    expected = video_vae().decode(latent)
    assert torch.allclose(((made.decode(latent) + 1) / 2).clamp(0, 1).movedim(1, -1), expected, atol=1e-5)
    assert isinstance(video_vae().first_stage_model, comfy.ldm.wan.vae.WanVAE)
    assert isinstance(made.encoder.conv1, CausalConv3d)
    assert isinstance(made.encoder.head[0], RMS_norm)
    conv = CausalConv3d(3, 4, 3, padding=1)
    assert conv(noise(1, 3, 5, 4, 4)).shape == (1, 4, 5, 4, 4)


def test_an_autoencoder_of_pictures_and_the_tiny_one_are_of_the_classes_that_packs_ask_for(base, parts):
    import comfy.latent_formats
    import comfy.ldm.models.autoencoder
    import comfy.taesd.taesd

    assert isinstance(parts.vae.first_stage_model, comfy.ldm.models.autoencoder.AutoencoderKL)
    tiny = comfy.taesd.taesd.TAESD(latent_channels=16)
    with torch.inference_mode():
        assert tiny.decode(noise(1, 16, 2, 2)).shape == (1, 3, 16, 16)
    wan = comfy.latent_formats.Wan21()
    assert (wan.latent_channels, wan.latent_dimensions, wan.taesd_decoder_name) == (16, 3, "lighttaew2_1")
    latent = noise(1, 16, 2, 3, 3)
    assert torch.allclose(wan.process_out(wan.process_in(latent)), latent, atol=1e-6)
    flux = comfy.latent_formats.Flux()
    assert flux.process_in(torch.tensor(1.1159)).item() == pytest.approx(0.3611)
    assert isinstance(flux, comfy.latent_formats.SD3)
