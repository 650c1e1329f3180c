"""comfy.model_base: what `model.model` is, and what the classes of its families are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limner.compat.homes.comfy_noise_augmentation import CLIPEmbeddingNoiseAugmentation
from limner.compat.homes.not_yet import NotYet
from limner.models.adm import FALLBACK_SIZE, SEED_OFFSET, WIDTH, pooled_text, unclip_vector
from limner.models.base import BaseModel, ModelType, convert_tensor
from limner.models.sdxl import PICTURES
from limner.models.unet import timestep_embedding

__all__ = ["BaseModel", "CLIPEmbeddingNoiseAugmentation", "ModelType", "convert_tensor"]


class _Family(NotYet):
    """The class of a family's model: instances are made by loading a file."""

    def __instancecheck__(cls, instance: Any) -> bool:  # noqa: N805 - a metaclass
        names = cls.__dict__.get("FAMILIES", ())
        if not isinstance(instance, BaseModel):
            return False
        variant = instance.family.variant(instance.config)
        return instance.family.name in names or (variant is not None and variant.name in names)


def _family(name: str, *families: str) -> Any:
    body = {"PART": "config", "FAMILIES": families, "__doc__": f"{name}: a model of that family."}
    return _Family(name, (), body)


SDXL = _family("SDXL", "sdxl")
SDXLRefiner = _family("SDXLRefiner", "sdxl_refiner")
SDXL_instructpix2pix = _family("SDXL_instructpix2pix", "sdxl_ip2p")
SD15_instructpix2pix = _family("SD15_instructpix2pix", "sd1_ip2p")
SD21UNCLIP = _family("SD21UNCLIP", "sd2_unclip")
SVD_img2vid = _family("SVD_img2vid", "svd")
SV3D_u = _family("SV3D_u", "sv3d_u")
SV3D_p = _family("SV3D_p", "sv3d_p")
Stable_Zero123 = _family("Stable_Zero123", "zero123")
SD_X4Upscaler = _family("SD_X4Upscaler", "sd_x4")
Lotus = _family("Lotus", "lotus")
StableCascade_C = _family("StableCascade_C", "cascade_c")
StableCascade_B = _family("StableCascade_B", "cascade_b")
SD3 = _family("SD3", "sd3")
AuraFlow = _family("AuraFlow", "auraflow")
StableAudio1 = _family("StableAudio1", "stable_audio")
HunyuanDiT = _family("HunyuanDiT", "hunyuan_dit")
PixArt = _family("PixArt", "pixart", "pixart_alpha", "pixart_sigma")
Flux = _family("Flux", "flux", "flux_schnell", "flux_fill")
GenmoMochi = _family("GenmoMochi", "mochi")
LTXV = _family("LTXV", "ltxv")
HunyuanVideo = _family("HunyuanVideo", "hunyuan_video")
HunyuanVideoI2V = _family("HunyuanVideoI2V", "hunyuan_video_i2v")
HunyuanVideoSkyreelsI2V = _family("HunyuanVideoSkyreelsI2V", "skyreels_i2v")
CosmosVideo = _family("CosmosVideo", "cosmos")
CosmosPredict2 = _family("CosmosPredict2", "cosmos_predict2")
Lumina2 = _family("Lumina2", "lumina2")
WAN21 = _family("WAN21", "wan", "wan_t2v", "wan_i2v")
WAN21_Vace = _family("WAN21_Vace", "wan_vace")
WAN21_Camera = _family("WAN21_Camera", "wan_camera")
WAN21_HuMo = _family("WAN21_HuMo", "wan_humo")
WAN22 = _family("WAN22", "wan22")
WAN22_Animate = _family("WAN22_Animate", "wan_animate")
WAN22_S2V = _family("WAN22_S2V", "wan_s2v")
Hunyuan3Dv2 = _family("Hunyuan3Dv2", "hunyuan3d")
Hunyuan3Dv2_1 = _family("Hunyuan3Dv2_1", "hunyuan3d_2_1")
HiDream = _family("HiDream", "hidream")
Chroma = _family("Chroma", "chroma")
ChromaRadiance = _family("ChromaRadiance", "chroma_radiance")
ACEStep = _family("ACEStep", "ace")
Omnigen2 = _family("Omnigen2", "omnigen2")
QwenImage = _family("QwenImage", "qwen_image")
HunyuanImage21 = _family("HunyuanImage21", "hunyuan_image")
HunyuanImage21Refiner = _family("HunyuanImage21Refiner", "hunyuan_image_refiner")
HunyuanVideo15 = _family("HunyuanVideo15", "hunyuan_video_15")
HunyuanVideo15_SR_Distilled = _family("HunyuanVideo15_SR_Distilled", "hunyuan_video_15_sr")
Flux2 = _family("Flux2", "flux2")
LongCatImage = _family("LongCatImage", "longcat_image")
Kandinsky5 = _family("Kandinsky5", "kandinsky5")
Kandinsky5Image = _family("Kandinsky5Image", "kandinsky5_image")
LTXAV = _family("LTXAV", "ltxav")
ACEStep15 = _family("ACEStep15", "ace15")
ZImagePixelSpace = _family("ZImagePixelSpace", "z_image_pixel")
Anima = _family("Anima", "anima")
IP2P = _family("IP2P", "sd1_ip2p", "sdxl_ip2p")


class Timestep(nn.Module):
    """Sines and cosines of a time. dim: how many."""

    def __init__(self, dim: int = WIDTH) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, t: Tensor) -> Tensor:
        """t: (B,) → (B, dim)."""
        return timestep_embedding(t, self.dim)


def sdxl_pooled(args: Mapping[str, Any], noise_augmentor: Any) -> Tensor:
    """The pooled text of a condition, or unCLIP's pictures in its place. noise_augmentor: of no consequence."""
    del noise_augmentor
    return pooled_text("Stable Diffusion XL", args, PICTURES)


def unclip_adm(
    unclip_conditioning: Sequence[Mapping[str, Any]],
    device: Any,
    noise_augmentor: Any,
    noise_augment_merge: float = 0.0,
    seed: int | None = None,
) -> Tensor:
    """The vector of unCLIP's pictures, where they are: (1, twice the width of a picture's). noise_augmentor: unused."""
    del noise_augmentor, device
    width = unclip_conditioning[0]["clip_vision_output"].image_embeds.shape[-1]
    entries = {"unclip_conditioning": unclip_conditioning, "seed": (seed or 0) + SEED_OFFSET}
    return unclip_vector(entries, 2 * width, noise_augment_merge)


def model_sampling(model_config: Any, model_type: ModelType) -> Any:
    """A new object with the noise levels and prediction of a type."""
    from limner.compat.homes import comfy_model_sampling as made  # noqa: PLC0415 - torch modules, one use

    pairs: dict[ModelType, tuple[type, type]] = {
        ModelType.EPS: (made.ModelSamplingDiscrete, made.EPS),
        ModelType.V_PREDICTION: (made.ModelSamplingDiscrete, made.V_PREDICTION),
        ModelType.V_PREDICTION_EDM: (made.ModelSamplingContinuousEDM, made.V_PREDICTION),
        ModelType.STABLE_CASCADE: (made.StableCascadeSampling, made.EPS),
        ModelType.EDM: (made.ModelSamplingContinuousEDM, made.EDM),
        ModelType.FLOW: (made.ModelSamplingDiscreteFlow, made.CONST),
        ModelType.V_PREDICTION_CONTINUOUS: (made.ModelSamplingContinuousV, made.V_PREDICTION),
        ModelType.FLUX: (made.ModelSamplingFlux, made.CONST),
        ModelType.IMG_TO_IMG: (made.ModelSamplingDiscrete, made.IMG_TO_IMG),
        ModelType.FLOW_COSMOS: (made.ModelSamplingCosmosRFlow, made.COSMOS_RFLOW),
    }
    found = type("ModelSampling", pairs[model_type], {})
    return found(model_config)


DEFAULT_SIZE = FALLBACK_SIZE
FLOAT = torch.float32
