"""Networks at their size in life, as lists of units: from the headers of published files, without their weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from math import prod

import torch
from torch import nn

from limner.memory.units import Unit
from limner.models.control.flux import ControlFlux, ControlFluxConfig
from limner.models.control.qwen_image import ControlQwenImage, ControlQwenImageConfig
from limner.models.control.sd35 import ControlSD35, ControlSD35Config
from limner.models.control.unet import ControlUNet, ControlUNetConfig
from limner.models.detect import detect
from limner.models.flux import FluxConfig
from limner.models.qwen_image import QwenImageConfig
from limner.models.sd3 import MMDiTConfig
from limner.models.unet import UNetConfig
from limner.weights import CheckpointHeader
from tests.models.checkpoints import real_header

ALIGNMENT = 256
HALF = torch.bfloat16
"""In which published ControlNets are."""


@dataclass(frozen=True)
class Tensor:
    """A weight: its name, shape and dtype in the file."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def part(header: str, prefix: str = "", named: str = "", only: str = "") -> Callable[[], Iterator[Tensor]]:
    """The tensors of a published file below a prefix. named: what they are called below. only: a pattern."""

    def tensors() -> Iterator[Tensor]:
        found = real_header(header)
        for name in found:
            short = name.removeprefix(prefix)
            if name.startswith(prefix) and re.match(only, short):
                yield Tensor(named + short, found.shape(name), found.dtype(name))

    return tensors


def joined(*parts: Callable[[], Iterator[Tensor]]) -> Callable[[], Iterator[Tensor]]:
    """The tensors of several parts."""
    return lambda: (one for each in parts for one in each())


def text(*kinds: str) -> Callable[[], Iterator[Tensor]]:
    """Text encoders, as a CLIP has them."""
    files = {"clip_l": "te-clip-l", "clip_g": "te-clip-g", "clip_h": "te-clip-h", "t5xxl": "te-t5xxl",
             "qwen25_7b": "te-qwen2.5-vl-7b"}  # fmt: skip
    return joined(*(part(files[kind], named=f"{kind}.transformer.") for kind in kinds))


def built(make: Callable[[], nn.Module]) -> Callable[[], Iterator[Tensor]]:
    """The tensors of a network that is made for this, without storage."""

    def tensors() -> Iterator[Tensor]:
        with torch.device("meta"):
            network = make()
        for name, value in network.state_dict().items():
            yield Tensor(name, tuple(value.shape), HALF)

    return tensors


def config(header: str) -> object:
    """The dimensions of a published diffusion model."""
    match = detect(real_header(header))
    return match.family.infer_config(match.diffusion, {})


def unet_control(header: str) -> Callable[[], Iterator[Tensor]]:
    """A ControlNet of a published UNet."""

    def make() -> nn.Module:
        unet = config(header)
        assert isinstance(unet, UNetConfig)
        return ControlUNet(ControlUNetConfig(unet))

    return built(make)


def transformer_control(name: str) -> Callable[[], Iterator[Tensor]]:
    """A ControlNet of a published transformer: with as many blocks as published ones have."""

    def make() -> nn.Module:
        if name == "flux":
            return ControlFlux(ControlFluxConfig(FluxConfig(depth=5, depth_single_blocks=10)))
        if name == "sd35":
            mmdit = config("sd35-large")
            assert isinstance(mmdit, MMDiTConfig)
            return ControlSD35(ControlSD35Config(mmdit))
        return ControlQwenImage(ControlQwenImageConfig(QwenImageConfig(num_layers=5)))

    return built(make)


UNET, FIRST = "model.diffusion_model.", "first_stage_model."
SD_VAE, FLUX_VAE = part("vae-sd"), part("vae-flux")
XL_TEXT, FLUX_TEXT, SD3_TEXT = text("clip_l", "clip_g"), text("clip_l", "t5xxl"), text("clip_l", "clip_g", "t5xxl")
CHECKPOINTS = {
    "sd1": (part("sd15", UNET), text("clip_l"), SD_VAE),
    "sd1_inpaint": (part("sd15-inpaint", UNET), text("clip_l"), SD_VAE),
    "sd2_v": (part("sd21-v", UNET), text("clip_h"), SD_VAE),
    "sd_x4": (part("sd-x4-upscaler-unet", UNET), text("clip_h"), SD_VAE),
    **{
        name: (part("sdxl-base", UNET), XL_TEXT, SD_VAE)
        for name in ("sdxl", "sdxl_control", "sdxl_b", "sdxl_c", "sdxl_d")
    },
    "sdxl_inpaint": (part("sdxl-inpaint-unet", UNET), XL_TEXT, SD_VAE),
    "ssd1b": (part("ssd-1b-unet", UNET), XL_TEXT, SD_VAE),
    "koala_700m": (part("koala-700m-unet", UNET), XL_TEXT, SD_VAE),
    "vega": (part("segmind-vega-unet", UNET), XL_TEXT, SD_VAE),
    "sdxl_refiner": (part("sdxl-refiner", UNET), text("clip_g"), SD_VAE),
    "sd3_medium": (part("sd3-medium", UNET), SD3_TEXT, FLUX_VAE),
    "sd35_medium": (part("sd35-medium", UNET), SD3_TEXT, FLUX_VAE),
    "sd35_large": (part("sd35-large", UNET), SD3_TEXT, FLUX_VAE),
    "flux_dev": (part("flux-dev"), FLUX_TEXT, FLUX_VAE),
    "flux_schnell": (part("flux-schnell"), FLUX_TEXT, FLUX_VAE),
    "flux_fill": (part("flux-fill"), FLUX_TEXT, FLUX_VAE),
    "chroma": (part("chroma"), text("t5xxl"), FLUX_VAE),
    "pixart_sigma": (part("pixart-sigma"), text("t5xxl"), SD_VAE),
    "qwen_image": (part("qwen-image"), text("qwen25_7b"), part("vae-wan2.1")),
}
"""Name of a file → its diffusion model, text encoders and autoencoder."""
OTHERS = {
    "sd1.control": unet_control("sd15-unet"),
    "sd1_other.control": unet_control("sd15-unet"),
    "sdxl.control": unet_control("sdxl-base-unet"),
    "sd35.control": transformer_control("sd35"),
    "flux.control": transformer_control("flux"),
    "qwen_image.control": transformer_control("qwen_image"),
    "taesd_decoder.decoder": part("vae-taesd", "taesd_decoder."),
    "taesdxl_decoder.decoder": part("vae-taesd", "taesd_decoder."),
    "taef1_decoder.decoder": part("vae-taef1", "taesd_decoder."),
    "clip_l.text": text("clip_l"),
    "t5xxl.text": text("t5xxl"),
    "sixteen.vae": FLUX_VAE,
}


def tensors_of(network: str) -> list[Tensor]:
    """The tensors of `file.part`."""
    if network in OTHERS:
        return list(OTHERS[network]())
    file, _, which = network.rpartition(".")
    if "+" in file:  # text encoders of files of their own
        return list(text(*file.split("+"))())
    return list(CHECKPOINTS[file][("diffusion", "text", "vae").index(which)]())


@dataclass(frozen=True)
class Sized:
    """A network: its units, and the weights of each by name."""

    units: tuple[Unit, ...]
    weights: tuple[tuple[str, ...], ...]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes when all of it is resident."""
        return sum(one.resident for one in self.units)


@cache
def sized(network: str, dtype: str) -> Sized:
    """`file.part` with its weights kept in a dtype. A unit is a module; weights of other names cannot be streamed."""
    wanted = getattr(torch, dtype) if dtype != "None" else None
    modules: dict[str, list[Tensor]] = {}
    for tensor in tensors_of(network):
        modules.setdefault(tensor.name.rpartition(".")[0], []).append(tensor)
    units, weights = [], []
    for name, own in modules.items():
        kept = [_kept(one, wanted) for one in own]
        moved = [prod(one.shape) * one.dtype.itemsize for one in own]
        buffer = sum(-(-size // ALIGNMENT) * ALIGNMENT for size in moved)
        compute = HALF if kept[0].itemsize == 1 else kept[0]
        if any(one.dtype != compute for one in own):
            buffer += sum(prod(one.shape) * compute.itemsize for one in own)
        resident = sum(prod(one.shape) * form.itemsize for one, form in zip(own, kept, strict=True))
        fixed = not all(one.name.endswith((".weight", ".bias", ".scale")) for one in own)
        cast = [size for one, form, size in zip(own, kept, moved, strict=True) if not one.dtype == form == compute]
        units.append(Unit(name, resident, buffer, sum(moved), fixed, max(cast, default=0)))
        weights.append(tuple(one.name for one in own))
    return Sized(tuple(units), tuple(weights))


def _kept(tensor: Tensor, wanted: torch.dtype | None) -> torch.dtype:
    if wanted is None or not tensor.dtype.is_floating_point:
        return tensor.dtype
    return torch.float32 if wanted.itemsize == 1 and len(tensor.shape) < 2 else wanted


def autoencoder_header(network: str) -> CheckpointHeader:
    """The header of a network that is an autoencoder."""
    return CheckpointHeader.of({one.name: torch.empty(one.shape, device="meta") for one in tensors_of(network)})
