"""`comfy_api.latest`, and the same under its numbered versions."""

from __future__ import annotations

from limner.compat.v3 import io, ui
from limner.compat.v3.api import ComfyAPI, ComfyAPIBase, ComfyAPISync
from limner.compat.v3.base import LazyType
from limner.compat.v3.node import ComfyExtension
from limner.compat.v3.sockets import LatentDict
from limner.compat.v3.values import MESH, VOXEL
from limner.store.video import (
    AudioInput,
    VideoCodec,
    VideoComponents,
    VideoContainer,
    VideoFromComponents,
    VideoFromFile,
    VideoInput,
)


class Input:
    """What nodes are given."""

    Image = LazyType("torch", "Tensor")
    Audio = AudioInput
    Mask = LazyType("torch", "Tensor")
    Latent = LatentDict
    Video = VideoInput


class InputImpl:
    """What nodes may make of such."""

    VideoFromFile = VideoFromFile
    VideoFromComponents = VideoFromComponents


class Types:
    """Values and choices of nodes."""

    VideoCodec = VideoCodec
    VideoContainer = VideoContainer
    VideoComponents = VideoComponents
    MESH = MESH
    VOXEL = VOXEL


IO = io
UI = ui
comfy_io = io
comfy_ui = ui
ComfyAPI_latest = ComfyAPI

__all__ = [
    "IO",
    "UI",
    "ComfyAPI",
    "ComfyAPIBase",
    "ComfyAPISync",
    "ComfyAPI_latest",
    "ComfyExtension",
    "Input",
    "InputImpl",
    "Types",
    "comfy_io",
    "comfy_ui",
    "io",
    "ui",
]
