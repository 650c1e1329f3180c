"""comfy.supported_models and _base: ComfyUI's table of families. Limner's own are in `limner.models`."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from limner.compat.homes import comfy_latent_formats as latent_formats
from limner.compat.homes.not_yet import missing
from limner.compat.homes.stands_for import StandsFor
from limner.models.legacy_config import LegacyConfig


class ClipTarget:
    """A tokenizer's and a text encoder's class."""

    def __init__(self, tokenizer: Any, clip: Any) -> None:
        self.tokenizer, self.clip = tokenizer, clip
        self.params: dict[str, Any] = {}


class BASE(metaclass=StandsFor):
    """A family's configuration: `model.model.model_config` is one. unet_config: what a network of it has."""

    unet_config: ClassVar[dict[str, Any]] = {}
    unet_extra_config: ClassVar[dict[str, Any]] = {"num_heads": -1, "num_head_channels": 64}
    required_keys: ClassVar[dict[str, Any]] = {}
    clip_prefix: ClassVar[list[str]] = []
    clip_vision_prefix: str | None = None
    noise_aug_config: Any = None
    sampling_settings: ClassVar[dict[str, Any]] = {}
    latent_format: Any = latent_formats.LatentFormat
    vae_key_prefix: ClassVar[list[str]] = ["first_stage_model."]
    text_encoder_key_prefix: ClassVar[list[str]] = ["cond_stage_model."]
    supported_inference_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16, torch.float32]
    memory_usage_factor = 2.0
    manual_cast_dtype: Any = None
    custom_operations: Any = None
    scaled_fp8: Any = None
    layer_quant_config: Any = None
    optimizations: ClassVar[dict[str, bool]] = {"fp8": False}
    FAMILIES: tuple[str, ...] = ()
    VECTOR_TELLS = False
    recognises = staticmethod(lambda found: isinstance(found, LegacyConfig))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.recognises = staticmethod(lambda found: isinstance(found, LegacyConfig) and cls.names(found))

    @classmethod
    def names(cls, found: LegacyConfig) -> bool:
        """Whether a configuration is of this family or build; of two that differ in one width, whether it has that."""
        own = cls.unet_config.get("adm_in_channels") if cls.VECTOR_TELLS else None
        return bool({found.family, found.variant} & set(cls.FAMILIES)) and own in (
            None,
            found.unet_config.get("adm_in_channels"),
        )

    @classmethod
    def matches(cls, unet_config: dict[str, Any], state_dict: Any = None) -> bool:
        """Whether a network has what this family's have."""
        if any(name not in unet_config or unet_config[name] != value for name, value in cls.unet_config.items()):
            return False
        return state_dict is None or all(name in state_dict for name in cls.required_keys)

    def __init__(self, unet_config: dict[str, Any]) -> None:
        self.__dict__["unet_config"] = {**unet_config, **self.unet_extra_config}
        self.latent_format = self.latent_format()

    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> Any:
        """A model of it. Raises LimnerError: models are made by loading a file."""
        del state_dict, prefix, device
        raise missing(f"{type(self).__name__}.get_model", "config")

    def model_type(self, state_dict: Any, prefix: str = "") -> Any:
        """What the network predicts."""
        from limner.models.base import ModelType  # noqa: PLC0415 - one use

        return ModelType.V_PREDICTION if prefix + "v_pred" in state_dict else ModelType.EPS

    def inpaint_model(self) -> bool:
        """Whether more than the latent goes in."""
        return bool(self.unet_config["in_channels"] > 4)

    def process_clip_state_dict(self, state_dict: Any) -> Any:
        """As it is."""
        return state_dict

    process_unet_state_dict = process_vae_state_dict = process_clip_state_dict
    process_clip_state_dict_for_saving = process_unet_state_dict_for_saving = process_clip_state_dict
    process_vae_state_dict_for_saving = process_clip_vision_state_dict_for_saving = process_clip_state_dict

    def set_inference_dtype(self, dtype: Any, manual_cast_dtype: Any) -> None:
        """Keep weights in one dtype, compute in another."""
        self.unet_config["dtype"], self.manual_cast_dtype = dtype, manual_cast_dtype


def _family(name: str, latent: str, *families: str, **config: Any) -> type[BASE]:
    body = {"unet_config": config, "latent_format": getattr(latent_formats, latent), "FAMILIES": families}
    return type(name, (BASE,), {**body, "__doc__": f"{name}."})


SD15 = _family(
    "SD15", "SD15", "sd1", context_dim=768, model_channels=320, use_linear_in_transformer=False, adm_in_channels=None
)
SD20 = _family(
    "SD20", "SD15", "sd2", context_dim=1024, model_channels=320, use_linear_in_transformer=True, adm_in_channels=None
)
SD21UnclipL = _family("SD21UnclipL", "SD15", "sd2_unclip", context_dim=1024, model_channels=320, adm_in_channels=1536)
SD21UnclipH = _family("SD21UnclipH", "SD15", "sd2_unclip", context_dim=1024, model_channels=320, adm_in_channels=2048)
SD21UnclipL.VECTOR_TELLS = SD21UnclipH.VECTOR_TELLS = True
SD15_instructpix2pix = _family("SD15_instructpix2pix", "SD15", "sd1_ip2p", context_dim=768, in_channels=8)
SDXL_instructpix2pix = _family("SDXL_instructpix2pix", "SDXL", "sdxl_ip2p", context_dim=2048, in_channels=8)
SDXL = _family("SDXL", "SDXL", "sdxl", model_channels=320, context_dim=2048, adm_in_channels=2816)
SDXLRefiner = _family("SDXLRefiner", "SDXL", "sdxl_refiner", model_channels=384, context_dim=1280, adm_in_channels=2560)
SSD1B = _family("SSD1B", "SDXL", "ssd1b", model_channels=320, context_dim=2048, adm_in_channels=2816)
Segmind_Vega = _family("Segmind_Vega", "SDXL", "vega", model_channels=320, context_dim=2048, adm_in_channels=2816)
KOALA_700M = _family("KOALA_700M", "SDXL", "koala_700m", model_channels=320, context_dim=2048, adm_in_channels=2816)
KOALA_1B = _family("KOALA_1B", "SDXL", "koala_1b", model_channels=320, context_dim=2048, adm_in_channels=2816)
SVD_img2vid = _family("SVD_img2vid", "SD15", "svd", model_channels=320, in_channels=8, adm_in_channels=768)
SV3D_u = _family("SV3D_u", "SD15", "sv3d_u", model_channels=320, in_channels=8, adm_in_channels=256)
SV3D_p = _family("SV3D_p", "SD15", "sv3d_p", model_channels=320, in_channels=8, adm_in_channels=1280)
SD_X4Upscaler = _family("SD_X4Upscaler", "SD_X4", "sd_x4", model_channels=256, in_channels=7)
Stable_Zero123 = _family("Stable_Zero123", "SD15", "zero123", context_dim=768, model_channels=320, in_channels=8)
Stable_Cascade_C = _family("Stable_Cascade_C", "SC_Prior", "cascade_c", stable_cascade_stage="c")
Stable_Cascade_B = _family("Stable_Cascade_B", "SC_B", "cascade_b", stable_cascade_stage="b")
SD3 = _family("SD3", "SD3", "sd3", in_channels=16, pos_embed_scaling_factor=None)
StableAudio = _family("StableAudio", "StableAudio1", "stable_audio", audio_model="dit1.0")
AuraFlow = _family("AuraFlow", "SDXL", "auraflow", cond_seq_dim=2048)
PixArtAlpha = _family("PixArtAlpha", "SD15", "pixart_alpha", image_model="pixart_alpha")
PixArtSigma = _family("PixArtSigma", "SDXL", "pixart_sigma", image_model="pixart_sigma")
HunyuanDiT = _family("HunyuanDiT", "SDXL", "hunyuan_dit", image_model="hydit")
HunyuanDiT1 = _family("HunyuanDiT1", "SDXL", "hunyuan_dit_1", image_model="hydit1")
Flux = _family("Flux", "Flux", "flux", image_model="flux", guidance_embed=True)
FluxInpaint = _family("FluxInpaint", "Flux", "flux_fill", image_model="flux", guidance_embed=True, in_channels=96)
FluxSchnell = _family("FluxSchnell", "Flux", "flux_schnell", image_model="flux", guidance_embed=False)
GenmoMochi = _family("GenmoMochi", "Mochi", "mochi", image_model="mochi_preview")
LTXV = _family("LTXV", "LTXV", "ltxv", image_model="ltxv")
HunyuanVideo = _family("HunyuanVideo", "HunyuanVideo", "hunyuan_video", image_model="hunyuan_video")
Lumina2 = _family("Lumina2", "Flux", "lumina2", image_model="lumina2")
WAN21_T2V = _family("WAN21_T2V", "Wan21", "wan_t2v", image_model="wan2.1", model_type="t2v")
WAN21_I2V = _family("WAN21_I2V", "Wan21", "wan_i2v", image_model="wan2.1", model_type="i2v", in_dim=36)
HiDream = _family("HiDream", "Flux", "hidream", image_model="hidream")
Chroma = _family("Chroma", "Flux", "chroma", image_model="chroma")
ChromaRadiance = _family("ChromaRadiance", "ChromaRadiance", "chroma_radiance", image_model="chroma_radiance")
ACEStep = _family("ACEStep", "ACEAudio", "ace", audio_model="ace")
Omnigen2 = _family("Omnigen2", "Flux", "omnigen2", image_model="omnigen2")
QwenImage = _family("QwenImage", "Wan21", "qwen_image", image_model="qwen_image")

models = [
    one for one in list(globals().values()) if isinstance(one, type) and issubclass(one, BASE) and one is not BASE
]


def __getattr__(name: str) -> Any:
    if name == "supported_models_base":
        from importlib import import_module  # noqa: PLC0415 - the module itself

        return import_module(__name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
