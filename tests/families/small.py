"""The families and their builds at reduced width: an entry each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from limner.models.control.flux import ControlFlux, ControlFluxConfig
from limner.models.control.qwen_image import ControlQwenImage, ControlQwenImageConfig
from limner.models.control.sd35 import ControlSD35, ControlSD35Config
from limner.models.control.unet import ControlUNet, ControlUNetConfig
from limner.models.flux import Flux
from limner.models.sd3 import MMDiT
from limner.models.unet import UNet
from tests.families.make import SIDE, Encode, Graph, Link, Loaded, Prepare, Prepared, Small, seeded_tensor
from tests.families.networks import (
    CLIP_G,
    CLIP_H,
    CLIP_L,
    FLUX_SAYS,
    PICTURE,
    QWEN_IMAGE,
    UNET_SAYS,
    Part,
    chroma,
    chroma_radiance,
    flux,
    mmdit,
    pixart,
    qwen_image,
    redux,
    siglip,
    unet,
    vision,
)

# -- what a prompt becomes --------------------------------------------------------------------------------------------


def plain_text(graph: Graph, loaded: Loaded, prompt: str) -> Link:
    """CLIPTextEncode."""
    return graph.add("CLIPTextEncode", clip=loaded.clip, text=prompt)


def sdxl_text(graph: Graph, loaded: Loaded, prompt: str) -> Link:
    """CLIPTextEncodeSDXL."""
    sizes = {"width": SIDE, "height": SIDE, "target_width": SIDE, "target_height": SIDE, "crop_w": 0, "crop_h": 0}
    return graph.add("CLIPTextEncodeSDXL", clip=loaded.clip, text_g=prompt, text_l=prompt, **sizes)


def refiner_text(graph: Graph, loaded: Loaded, prompt: str) -> Link:
    """CLIPTextEncodeSDXLRefiner."""
    sizes = {"ascore": 6.0, "width": SIDE, "height": SIDE}
    return graph.add("CLIPTextEncodeSDXLRefiner", clip=loaded.clip, text=prompt, **sizes)


def sd3_text(graph: Graph, loaded: Loaded, prompt: str) -> Link:
    """CLIPTextEncodeSD3."""
    texts = {"clip_l": prompt, "clip_g": prompt, "t5xxl": prompt}
    return graph.add("CLIPTextEncodeSD3", clip=loaded.clip, empty_padding="none", **texts)


def flux_text(graph: Graph, loaded: Loaded, prompt: str) -> Link:
    """CLIPTextEncodeFlux."""
    return graph.add("CLIPTextEncodeFlux", clip=loaded.clip, clip_l=prompt, t5xxl=prompt, guidance=3.5)


def qwen_edit_text(graph: Graph, loaded: Loaded, prompt: str) -> Link:
    """TextEncodeQwenImageEdit with a picture."""
    shown = {"vae": loaded.vae, "image": picture(graph)}
    return graph.add("TextEncodeQwenImageEdit", clip=loaded.clip, prompt=prompt, **shown)


def qwen_edit_plus_text(graph: Graph, loaded: Loaded, prompt: str) -> Link:
    """TextEncodeQwenImageEditPlus with two pictures."""
    shown = {"vae": loaded.vae, "image1": picture(graph), "image2": picture(graph, "other.png")}
    return graph.add("TextEncodeQwenImageEditPlus", clip=loaded.clip, prompt=prompt, **shown)


def picture(graph: Graph, name: str = "picture.png") -> Link:
    """A picture of the input folder."""
    return graph.add("LoadImage", image=name)


# -- what the sampler is given ----------------------------------------------------------------------------------------


def blank(kind: str = "EmptyLatentImage") -> Prepare:
    """An empty latent."""

    def prepare(graph: Graph, loaded: Loaded, positive: Link, negative: Link) -> Prepared:
        latent = graph.add(kind, width=SIDE, height=SIDE, batch_size=1)
        return Prepared(loaded.model, positive, negative, latent)

    return prepare


TRANSFORMER = blank("EmptySD3LatentImage")


def filled(graph: Graph, loaded: Loaded, positive: Link, negative: Link) -> Prepared:
    """InpaintModelConditioning with a picture and its hole."""
    pixels, mask = graph.outputs("LoadImage", 2, image="picture.png")
    told = {"positive": positive, "negative": negative, "vae": loaded.vae, "pixels": pixels, "mask": mask}
    return Prepared(loaded.model, *graph.outputs("InpaintModelConditioning", 3, noise_mask=True, **told))


def beside_a_picture(graph: Graph, loaded: Loaded, positive: Link, negative: Link) -> Prepared:
    """InstructPixToPixConditioning with a picture."""
    told = {"positive": positive, "negative": negative, "vae": loaded.vae, "pixels": picture(graph)}
    return Prepared(loaded.model, *graph.outputs("InstructPixToPixConditioning", 3, **told))


def enlarged(graph: Graph, loaded: Loaded, positive: Link, negative: Link) -> Prepared:
    """SD_4XUpscale_Conditioning with a picture of a quarter of the size."""
    size = {"upscale_method": "area", "width": SIDE // 4, "height": SIDE // 4, "crop": "disabled"}
    images = graph.add("ImageScale", image=picture(graph), **size)
    told = {"images": images, "positive": positive, "negative": negative, "scale_ratio": 4.0, "noise_augmentation": 0.2}
    return Prepared(loaded.model, *graph.outputs("SD_4XUpscale_Conditioning", 3, **told))


def with_reference(graph: Graph, loaded: Loaded, positive: Link, negative: Link) -> Prepared:
    """ReferenceLatent with an encoded picture."""
    latent = graph.add("VAEEncode", pixels=picture(graph), vae=loaded.vae)
    edited = graph.add("ReferenceLatent", conditioning=positive, latent=latent)
    return TRANSFORMER(graph, loaded, edited, negative)


def shown_a_picture(graph: Graph, loaded: Loaded, positive: Link, negative: Link) -> Prepared:
    """unCLIPConditioning with what the vision encoder says of a picture."""
    seen = graph.add("CLIPVisionEncode", clip_vision=loaded.vision, image=picture(graph), crop="center")
    told = {"clip_vision_output": seen, "strength": 1.0, "noise_augmentation": 0.1}
    shown = graph.add("unCLIPConditioning", conditioning=positive, **told)
    return blank()(graph, loaded, shown, negative)


def in_the_style(
    graph: Graph, loaded: Loaded, positive: Link, negative: Link, encoder: str = "siglip", style: str = "redux"
) -> Prepared:
    """StyleModelApply with what a vision encoder says of a picture. encoder, style: their files."""
    sees = graph.add("CLIPVisionLoader", clip_name=f"{encoder}.safetensors")
    seen = graph.add("CLIPVisionEncode", clip_vision=sees, image=picture(graph), crop="center")
    model = graph.add("StyleModelLoader", style_model_name=f"{style}.safetensors")
    told = {"style_model": model, "clip_vision_output": seen, "strength": 1.0, "strength_type": "multiply"}
    styled = graph.add("StyleModelApply", conditioning=positive, **told)
    return TRANSFORMER(graph, loaded, styled, negative)


def controlled(name: str, prepare: Prepare) -> Prepare:
    """ControlNetApplyAdvanced with a picture. name: of the file."""

    def prepared(graph: Graph, loaded: Loaded, positive: Link, negative: Link) -> Prepared:
        network = graph.add("ControlNetLoader", control_net_name=name)
        told = {"positive": positive, "negative": negative, "image": picture(graph), "vae": loaded.vae}
        span = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
        both = graph.outputs("ControlNetApplyAdvanced", 2, control_net=network, **told, **span)
        return prepare(graph, loaded, *both)

    return prepared


# -- entries ----------------------------------------------------------------------------------------------------------

XL = {"clip_l": "conditioner.embedders.0.transformer.", "clip_g": "conditioner.embedders.1.model."}
OPEN_CLIP = frozenset({"clip_g", "clip_h"})
HINT = (3, 4, 4, 4, 4, 4, 4, 4, 8)


def _beside(*kinds: str) -> dict[str, str]:
    return {kind: f"text_encoders.{kind}.transformer." for kind in kinds}


def _first(name: str, prepare: Prepare | None = None, build: str | None = None, **changes: Any) -> Small:
    """Stable Diffusion 1."""
    return Small(
        name, ("sd1", build), unet("sd15-unet", context_dim=CLIP_L, **changes),
        {"clip_l": "cond_stage_model.transformer."}, ("first_stage_model.", "sd"), "stable_diffusion", plain_text,
        prepare or blank(),
    )  # fmt: skip


def _second(
    name: str, family: str, header: str, prepare: Prepare, vae: str = "sd", build: str | None = None, **changes: Any
) -> Small:
    """Stable Diffusion 2, and its upscaler."""
    marks, sees = changes.pop("marks", {}), changes.pop("vision", None)
    return Small(
        name, (family, build), unet(header, context_dim=CLIP_H, **changes), {"clip_h": "cond_stage_model.model."},
        ("first_stage_model.", vae), "stable_diffusion", plain_text, prepare, marks=marks, open_clip=OPEN_CLIP,
        vision=sees,
    )  # fmt: skip


SHALLOW = {
    "transformer_depth": (0, 0, 1, 1, 1, 1), "transformer_depth_middle": 1,
    "transformer_depth_output": (0, 0, 0, 1, 1, 1, 1, 1, 1),
}  # fmt: skip
"""Of builds of XL that differ from it in something else; it is ten transformers deep itself."""


def _xl(name: str, header: str, prepare: Prepare | None = None, build: str | None = None, **changes: Any) -> Small:
    """Stable Diffusion XL."""
    marks: Mapping[str, torch.Tensor] = changes.pop("marks", {})
    extra: Mapping[str, Part] = changes.pop("extra", {})
    widths = {"context_dim": CLIP_L + CLIP_G, "adm_in_channels": CLIP_G + 6 * 256}
    return Small(
        name, ("sdxl", build), unet(header, **widths, **changes), XL, ("first_stage_model.", "sd"), "sdxl", sdxl_text,
        prepare or blank(), marks=marks, open_clip=OPEN_CLIP, extra=extra,
    )  # fmt: skip


def _third(name: str, prepare: Prepare | None = None, **changes: Any) -> Small:
    """Stable Diffusion 3."""
    extra, files = changes.pop("extra", {}), changes.pop("files", "")
    return Small(
        name, ("sd3", None), mmdit(**changes), _beside("clip_l", "clip_g", "t5xxl"), ("first_stage_model.", "sixteen"), "sd3",
        sd3_text, prepare or TRANSFORMER, extra=extra, files=files,
    )  # fmt: skip


def _flux(name: str, prepare: Prepare | None = None, family: str = "flux", **changes: Any) -> Small:
    """FLUX.1."""
    extra, files = changes.pop("extra", {}), changes.pop("files", "")
    return Small(
        name, (family, None), flux(**changes), _beside("clip_l", "t5xxl"), ("vae.", "sixteen"), "flux", flux_text,
        prepare or TRANSFORMER, cfg=1.0, extra=extra, files=files,
    )  # fmt: skip


def _qwen(name: str, encode: Encode, prepare: Prepare | None = None, **changes: Any) -> Small:
    """Qwen-Image; all that differs in its builds is what they were trained on."""
    files, vae, extra = changes.pop("files", ""), changes.pop("vae", "wan"), changes.pop("extra", {})
    return Small(
        name, ("qwen_image", None), qwen_image(), _beside("qwen25_7b"), ("vae.", vae), "qwen_image", encode,
        prepare or TRANSFORMER, files=files, extra=extra, **changes,
    )  # fmt: skip


def _unet_control() -> Part:
    base = unet("sdxl-base-unet", context_dim=CLIP_L + CLIP_G, adm_in_channels=CLIP_G + 6 * 256, **SHALLOW).make()
    assert isinstance(base, UNet)
    return Part(lambda: ControlUNet(ControlUNetConfig(base.config, HINT)), UNET_SAYS)


def _sd35_control() -> Part:
    base = mmdit(qk_norm="rms").make()
    assert isinstance(base, MMDiT)
    return Part(lambda: ControlSD35(ControlSD35Config(base.config)), {"num_heads": 2})


def _flux_control() -> Part:
    base = flux().make()
    assert isinstance(base, Flux)
    return Part(lambda: ControlFlux(ControlFluxConfig(base.config)), FLUX_SAYS)


def _qwen_control() -> Part:
    return Part(lambda: ControlQwenImage(ControlQwenImageConfig(QWEN_IMAGE)), {"axes_dims_rope": (4, 6, 6)})


EDM = {"edm_mean": seeded_tensor(1, 4, 1, 1), "edm_std": seeded_tensor(1, 4, 1, 1, seed=2).abs() + 1}
VELOCITY = {"v_pred": torch.zeros(0)}
SMALL = (
    _first("sd1"),
    _first("sd1_inpaint", filled, in_channels=9),
    _first("sd1_ip2p", beside_a_picture, "sd1_ip2p", in_channels=8),
    _second("sd2", "sd2", "sd21-v-unet", blank()),
    _second("sd2_v", "sd2", "sd21-v-unet", blank(), marks=VELOCITY),
    _second("sd2_unclip", "sd2", "sd21-unclip-h-unet", shown_a_picture, build="sd2_unclip", adm_in_channels=2 * PICTURE,
            vision=("embedder.model.visual.", vision())),
    _second("sd_x4", "sd_x4", "sd-x4-upscaler-unet", enlarged, "sd_x4"),
    _xl("sdxl", "sdxl-base-unet"),
    _xl("sdxl_control", "sdxl-base-unet", controlled("sdxl.safetensors", blank()),
        extra={"controlnet/sdxl.safetensors": _unet_control()}, **SHALLOW),
    _xl("sdxl_inpaint", "sdxl-inpaint-unet", filled, **SHALLOW),
    _xl("sdxl_ip2p", "sdxl-base-unet", beside_a_picture, "sdxl_ip2p", in_channels=8, **SHALLOW),
    _xl("ssd1b", "ssd-1b-unet", build="ssd1b"),
    _xl("koala_700m", "koala-700m-unet", build="koala_700m"),
    _xl("koala_1b", "koala-1b-unet", build="koala_1b"),
    _xl("vega", "segmind-vega-unet", build="vega"),
    _xl("playground_2_5", "sdxl-base-unet", marks=EDM, **SHALLOW),
    Small("sdxl_refiner", ("sdxl_refiner", None), unet("sdxl-refiner", context_dim=CLIP_G, adm_in_channels=CLIP_G + 5 * 256),
          {"clip_g": "conditioner.embedders.0.model."}, ("first_stage_model.", "sd"), "stable_diffusion", refiner_text,
          blank(), open_clip=OPEN_CLIP),
    _third("sd3_medium"),
    _third("sd35_medium", qk_norm="rms", x_block_self_attn_layers=(0,)),
    _third("sd35_large", qk_norm="rms"),
    _third("sd35_control", controlled("sd35.safetensors", TRANSFORMER), files="sd35_large", qk_norm="rms",
           extra={"controlnet/sd35.safetensors": _sd35_control()}),
    _flux("flux_dev"),
    _flux("flux_schnell", family="flux_schnell", guidance_embed=False),
    _flux("flux_fill", filled, "flux_fill", in_channels=96),
    _flux("flux_kontext", with_reference, files="flux_dev"),
    _flux("flux_canny", beside_a_picture, in_channels=32),
    _flux("flux_redux", in_the_style, files="flux_dev",
          extra={"clip_vision/siglip.safetensors": siglip(), "style_models/redux.safetensors": redux()}),
    _flux("flux_control", controlled("flux.safetensors", TRANSFORMER), files="flux_dev",
          extra={"controlnet/flux.safetensors": _flux_control()}),
    Small("chroma", ("chroma", None), chroma(), _beside("t5xxl"), ("vae.", "sixteen"), "chroma", plain_text, TRANSFORMER),
    Small("chroma_radiance", ("chroma_radiance", None), chroma_radiance(), _beside("t5xxl"), None, "chroma", plain_text,
          blank("EmptyChromaRadianceLatentImage")),
    Small("pixart_sigma", ("pixart_sigma", None), pixart(alpha=False), _beside("t5xxl"), ("vae.", "sd"), "pixart",
          plain_text, blank("EmptyLatentImage")),
    Small("pixart_alpha", ("pixart_alpha", None), pixart(alpha=True), _beside("t5xxl"), ("vae.", "sd"), "pixart",
          plain_text, blank("EmptyLatentImage")),
    _qwen("qwen_image", plain_text),
    _qwen("qwen_image_edit", qwen_edit_text, cfg=5.0, vae="wan_coarse", side=4 * SIDE, zeroed=True, tolerance=4.0),
    _qwen("qwen_image_edit_plus", qwen_edit_plus_text, cfg=5.0, vae="wan_coarse", side=4 * SIDE,
          zeroed=True, files="qwen_image_edit", tolerance=4.0),
    _qwen("qwen_image_control", plain_text, controlled("qwen_image.safetensors", TRANSFORMER), files="qwen_image",
          extra={"controlnet/qwen_image.safetensors": _qwen_control()}),
)  # fmt: skip
