"""The objects that only nodes hand to each other: models, text encoders, autoencoders. (No nodes here.)"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from limner.graph import Kind

if TYPE_CHECKING:
    from limner.models.autoencoder import VAE as AnyVAE  # noqa: N811
    from limner.models.clip import CLIP as AnyCLIP  # noqa: N811
    from limner.models.clip_vision import ClipVision as AnyVision
    from limner.models.control.base import ControlBase as AnyControl
    from limner.models.model import Model as AnyModel
    from limner.models.style_models import StyleModel as AnyStyle
    from limner.nodes.surfaces import Mesh as AnyMesh
    from limner.nodes.surfaces import Voxel as AnyVoxel
    from limner.sampling.custom import EmptyNoise, RandomNoise
    from limner.sampling.guiders import CFGGuider as AnyGuider
    from limner.sampling.hooks import HookGroup as AnyHooks
    from limner.sampling.hooks import HookKeyframeGroup as AnyKeyframes
    from limner.sampling.latent_operations import Operation as AnyOperation
    from limner.sampling.sampler import Sampler as AnySampler
    from limner.store.video import AudioInput as AnyAudio
    from limner.store.video import VideoInput as AnyVideo

    AnyNoise = EmptyNoise | RandomNoise
else:
    # annotations are read at run time, and schemas need no network code
    AnyHooks = AnyKeyframes = AnyControl = AnyVision = AnyStyle = Any
    AnyVAE = AnyCLIP = AnyModel = AnyAudio = AnyVideo = AnyVoxel = AnyMesh = AnyNoise = AnyGuider = AnySampler = (
        AnyOperation
    ) = Any

MODEL = Annotated[AnyModel, Kind("MODEL")]
"""A diffusion model."""
CLIP = Annotated[AnyCLIP, Kind("CLIP")]
"""A text encoder with its tokenizer."""
VAE = Annotated[AnyVAE, Kind("VAE")]
"""An autoencoder."""
CONTROL_NET = Annotated[AnyControl, Kind("CONTROL_NET")]
"""A ControlNet or T2I adapter."""
MODEL_PATCH = Annotated[Any, Kind("MODEL_PATCH")]
"""A small network that computes inside a diffusion model: `limner.models.model_patches.ModelPatch`."""
CLIP_VISION = Annotated[AnyVision, Kind("CLIP_VISION")]
"""A vision encoder."""
CLIP_VISION_OUTPUT = Annotated[Any, Kind("CLIP_VISION_OUTPUT")]
"""What a vision encoder says of a picture."""
STYLE_MODEL = Annotated[AnyStyle, Kind("STYLE_MODEL")]
"""What makes tokens of what a vision encoder says."""
NOISE = Annotated[AnyNoise, Kind("NOISE")]
"""Where a sampling's first noise comes from."""
GUIDER = Annotated[AnyGuider, Kind("GUIDER")]
"""A model with its conditionings."""
SAMPLER = Annotated[AnySampler, Kind("SAMPLER")]
"""A solver with its options."""
LATENT_OPERATION = Annotated[AnyOperation, Kind("LATENT_OPERATION")]
"""A function of latents."""

AUDIO = Annotated[AnyAudio, Kind("AUDIO")]
"""Sound: `{"waveform": (batch, channels, samples) float32 in -1..1, "sample_rate": Hz}`."""
VIDEO = Annotated[AnyVideo, Kind("VIDEO")]
"""A video, in a file or of pictures and sound."""
SVG = Annotated[Any, Kind("SVG")]
"""Vector pictures: `.data` is a list of files in memory."""
VOXEL = Annotated[AnyVoxel, Kind("VOXEL")]
"""How solid space is: `.data` is (batch, depth, height, width)."""
MESH = Annotated[AnyMesh, Kind("MESH")]
"""Surfaces: `.vertices` (batch, n, 3) and `.faces` (batch, m, 3), indices of three corners."""
HOOKS = Annotated[AnyHooks, Kind("HOOKS")]
"""Changes of a model for some conditions only."""
HOOK_KEYFRAMES = Annotated[AnyKeyframes, Kind("HOOK_KEYFRAMES")]
"""Strengths by progress."""
TIMESTEPS_RANGE = Annotated[tuple[float, float], Kind("TIMESTEPS_RANGE")]
"""From where to where of the sampling, 0 to 1."""
