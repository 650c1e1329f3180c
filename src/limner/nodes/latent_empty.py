"""Blank latents in the shapes of model families, and videos cut in time."""

from __future__ import annotations

from functools import partial
from typing import Annotated, NamedTuple

import torch

from limner.graph import Float, Int, Latent, node

Side = Annotated[int, Int(min=16, max=16384, step=16)]
WideSide = Annotated[int, Int(min=64, max=16384, step=32)]
CascadeSide = Annotated[int, Int(min=256, max=16384, step=8)]
Batch = Annotated[int, Int(min=1, max=4096)]
Seconds = Annotated[float, Float(min=1.0, max=1000.0, step=0.1)]

empty_node = partial(node, title="", style="v3")


class Stages(NamedTuple):
    """The small latent of the first stage, and that of the second."""

    stage_c: Latent
    stage_b: Latent


def blank(batch: int, channels: int, *sides: int) -> Latent:
    """Zeros."""
    return {"samples": torch.zeros(batch, channels, *sides)}


def frames(length: int, step: int) -> int:
    """Latent frames of a video whose first frame is one and of whose others `step` make one."""
    return (length - 1) // step + 1


@empty_node("EmptySD3LatentImage", category="latent/sd3", python_module="comfy_extras.nodes_sd3")
def sd3(width: Side = 1024, height: Side = 1024, batch_size: Batch = 1) -> Latent:
    """A blank latent of 16 channels, 8 times smaller.

    width, height: of the picture.
    batch_size: how many pictures.
    """
    return blank(batch_size, 16, height // 8, width // 8)


@empty_node("EmptyHunyuanImageLatent", category="latent", python_module="comfy_extras.nodes_hunyuan")
def hunyuan_image(width: WideSide = 2048, height: WideSide = 2048, batch_size: Batch = 1) -> Latent:
    """A blank latent of 64 channels, 32 times smaller.

    width, height: of the picture.
    batch_size: how many pictures.
    """
    return blank(batch_size, 64, height // 32, width // 32)


@empty_node(
    "EmptyChromaRadianceLatentImage",
    category="latent/chroma_radiance",
    python_module="comfy_extras.nodes_chroma_radiance",
)
def chroma_radiance(width: Side = 1024, height: Side = 1024, batch_size: Batch = 1) -> Latent:
    """A blank picture for models that work on pixels.

    width, height: of the picture.
    batch_size: how many pictures.
    """
    return blank(batch_size, 3, height, width)


@empty_node("EmptyHunyuanLatentVideo", category="latent/video", python_module="comfy_extras.nodes_hunyuan")
def hunyuan_video(
    width: Side = 848,
    height: Side = 480,
    length: Annotated[int, Int(min=1, max=16384, step=4)] = 25,
    batch_size: Batch = 1,
) -> Latent:
    """A blank video of 16 channels, four frames in one.

    width, height: of the video.
    length: in frames.
    batch_size: how many videos.
    """
    return blank(batch_size, 16, frames(length, 4), height // 8, width // 8)


@empty_node("EmptyMochiLatentVideo", category="latent/video", python_module="comfy_extras.nodes_mochi")
def mochi(
    width: Side = 848,
    height: Side = 480,
    length: Annotated[int, Int(min=7, max=16384, step=6)] = 25,
    batch_size: Batch = 1,
) -> Latent:
    """A blank video of 12 channels, six frames in one.

    width, height: of the video.
    length: in frames.
    batch_size: how many videos.
    """
    return blank(batch_size, 12, frames(length, 6), height // 8, width // 8)


@empty_node("EmptyCosmosLatentVideo", category="latent/video", python_module="comfy_extras.nodes_cosmos")
def cosmos(
    width: Side = 1280,
    height: Side = 704,
    length: Annotated[int, Int(min=1, max=16384, step=8)] = 121,
    batch_size: Batch = 1,
) -> Latent:
    """A blank video of 16 channels, eight frames in one.

    width, height: of the video.
    length: in frames.
    batch_size: how many videos.
    """
    return blank(batch_size, 16, frames(length, 8), height // 8, width // 8)


@empty_node("EmptyLTXVLatentVideo", category="latent/video/ltxv", python_module="comfy_extras.nodes_lt")
def ltxv(
    width: WideSide = 768,
    height: WideSide = 512,
    length: Annotated[int, Int(min=1, max=16384, step=8)] = 97,
    batch_size: Batch = 1,
) -> Latent:
    """A blank video of 128 channels, eight frames in one, 32 times smaller.

    width, height: of the video.
    length: in frames.
    batch_size: how many videos.
    """
    return blank(batch_size, 128, frames(length, 8), height // 32, width // 32)


@empty_node(
    "StableCascade_EmptyLatentImage",
    category="latent/stable_cascade",
    python_module="comfy_extras.nodes_stable_cascade",
)
def stable_cascade(
    width: CascadeSide = 1024,
    height: CascadeSide = 1024,
    compression: Annotated[int, Int(min=4, max=128, step=1)] = 42,
    batch_size: Batch = 1,
) -> Stages:
    """Blank latents of the two stages.

    width, height: of the picture.
    compression: how many times smaller the first stage is.
    batch_size: how many pictures.
    """
    return Stages(
        blank(batch_size, 16, height // compression, width // compression),
        blank(batch_size, 4, height // 4, width // 4),
    )


@empty_node("EmptyAceStepLatentAudio", category="latent/audio", python_module="comfy_extras.nodes_ace")
def ace_step(seconds: Seconds = 120.0, batch_size: Batch = 1) -> Latent:
    """A blank piece of music of 8 channels and 16 bands.

    seconds: how long.
    batch_size: how many.
    """
    return {**blank(batch_size, 8, 16, int(seconds * 44100 / 512 / 8)), "type": "audio"}


@node(
    "EmptyLatentAudio",
    category="latent/audio",
    title="Empty Latent Audio",
    python_module="comfy_extras.nodes_audio",
)
def stable_audio(
    seconds: Seconds = 47.6,
    batch_size: Batch = 1,
) -> Latent:
    """A blank sound of 64 channels.

    batch_size: how many.
    """
    return {**blank(batch_size, 64, round(seconds * 44100 / 2048 / 2) * 2), "type": "audio"}


@node(
    "EmptyLatentHunyuan3Dv2",
    category="latent/3d",
    title="EmptyLatentHunyuan3Dv2",
    python_module="comfy_extras.nodes_hunyuan3d",
)
def hunyuan_3d(
    resolution: Annotated[int, Int(min=1, max=8192)] = 3072,
    batch_size: Batch = 1,
) -> Latent:
    """A blank shape of 64 channels and so many tokens.

    batch_size: how many.
    """
    return {**blank(batch_size, 64, resolution), "type": "hunyuan3dv2"}


@empty_node("TrimVideoLatent", category="latent/video", python_module="comfy_extras.nodes_wan")
def trim_video(samples: Latent, trim_amount: Annotated[int, Int(min=0, max=99999)] = 0) -> Latent:
    """A video without its first latent frames.

    samples: the video.
    trim_amount: how many frames are left out.
    """
    return {**samples, "samples": samples["samples"][:, :, trim_amount:]}
