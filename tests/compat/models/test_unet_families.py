"""The families of UNets by ComfyUI's names: what a model is, and the vectors that it is told."""

import pytest
import torch

from limner.models.adm import sdxl_vector, unclip_vector
from tests.models.test_unet_families import POOLED, model, picture, told

CLASSES = {
    "sd2": ("BaseModel", "SD20"),
    "sd2_unclip": ("SD21UNCLIP", "SD20"),
    "sdxl": ("SDXL", "SDXL"),
    "sdxl_refiner": ("SDXLRefiner", "SDXLRefiner"),
    "sd_x4": ("SD_X4Upscaler", "SD_X4Upscaler"),
}


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize("kind", CLASSES)
def test_a_model_and_its_configuration_are_of_the_classes_of_their_family(kind):
    import comfy.model_base
    import comfy.supported_models

    made = model(kind).model
    base, config = CLASSES[kind]
    assert isinstance(made, getattr(comfy.model_base, base))
    assert isinstance(made.model_config, getattr(comfy.supported_models, config))
    for other, other_config in CLASSES.values():
        assert isinstance(made, getattr(comfy.model_base, other)) == (other in (base, "BaseModel"))
        assert isinstance(made.model_config, getattr(comfy.supported_models, other_config)) == (other_config == config)


@pytest.mark.usefixtures("base")
def test_a_build_of_a_family_is_of_both_classes():
    import comfy.model_base
    import comfy.supported_models as supported

    editing = model("sdxl", in_channels=8).model
    for name in ("SDXL", "SDXL_instructpix2pix", "IP2P"):
        assert isinstance(editing, getattr(comfy.model_base, name))
    assert isinstance(editing.model_config, supported.SDXL)
    assert isinstance(editing.model_config, supported.SDXL_instructpix2pix)
    koala = model("sdxl", channel_mult=(1, 2, 4), num_res_blocks=(1, 1, 1), transformer_depth=(0, 2, 5),
                  transformer_depth_output=(0, 0, 2, 2, 5, 5), transformer_depth_middle=-2)  # fmt: skip
    assert isinstance(koala.model.model_config, supported.KOALA_700M)
    assert isinstance(koala.model.model_config, supported.SDXL)
    assert not isinstance(koala.model.model_config, supported.SSD1B)


@pytest.mark.usefixtures("base")
def test_unclip_models_for_large_and_huge_clips_are_told_apart_by_their_vector():
    import comfy.supported_models as supported

    large, huge = (model("sd2_unclip", adm_in_channels=width).model.model_config for width in (1536, 2048))
    assert (isinstance(large, supported.SD21UnclipL), isinstance(large, supported.SD21UnclipH)) == (True, False)
    assert (isinstance(huge, supported.SD21UnclipL), isinstance(huge, supported.SD21UnclipH)) == (False, True)


@pytest.mark.usefixtures("base")
def test_a_vector_of_a_packs_own_is_what_the_network_is_told():
    import comfy.model_base

    made = model("sdxl")

    def encode_adm(**entries):
        pooled = comfy.model_base.sdxl_pooled(entries, None)
        return sdxl_vector(pooled, width=entries["width"] * 2, height=entries["height"])

    pooled = torch.randn(1, POOLED)
    before = told(made, pooled_output=pooled)["y"]
    made.model.encode_adm = encode_adm
    after = told(made, pooled_output=pooled)["y"]
    assert torch.equal(after[:, :POOLED], pooled)
    assert not torch.equal(after, before)


@pytest.mark.usefixtures("base")
def test_pictures_make_the_vector_that_the_family_makes_of_them():
    from comfy.ldm.modules.encoders.noise_aug_modules import CLIPEmbeddingNoiseAugmentation
    from comfy.model_base import unclip_adm

    vector = torch.randn(POOLED)
    entries = [picture(vector, noise=0.2, strength=0.5)]
    schedule = {"timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}
    augmentor = CLIPEmbeddingNoiseAugmentation(noise_schedule_config=schedule, timestep_dim=POOLED)
    found = unclip_adm(entries, "cpu", augmentor, 0.05, seed=-3)
    assert torch.equal(found, unclip_vector({"unclip_conditioning": entries, "seed": 7}, 2 * POOLED))
    noised, level = augmentor(vector[None], noise_level=torch.tensor([200]), seed=-3)
    assert torch.allclose(found, torch.cat((noised, level), dim=1) * 0.5, atol=1e-6)


@pytest.mark.usefixtures("base")
def test_a_picture_is_noised_as_the_upscaler_does_it():
    from comfy.ldm.modules.diffusionmodules.upscaling import ImageConcatWithNoiseAugmentation

    small = torch.rand(1, 3, 8, 12)
    augmentor = ImageConcatWithNoiseAugmentation({"linear_start": 0.0001, "linear_end": 0.02}, max_noise_level=350)
    found, level = augmentor(small, noise_level=torch.tensor([175]), seed=5 - 10)
    expected = told(model("sd_x4"), concat_image=small, noise_augmentation=0.5)
    assert torch.allclose(found, expected["c_concat"], atol=1e-6)
    assert torch.equal(level, expected["y"])
    assert augmentor(small)[1].shape == (1,)
