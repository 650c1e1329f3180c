"""What a kind of autoencoder is: how a file of it is recognised and built, what its latents are, what it costs.

A kind is one file of this folder with an `AUTOENCODER`; nothing outside that file names it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from limner.models.family import Mark
from limner.weights.header import CheckpointHeader

Overrides = Mapping[str, Any]
VAE_DTYPES = (torch.bfloat16, torch.float32)
"""Of autoencoders that overflow in float16."""
WORKSPACE = 1.6
"""What a pass takes in all, in units of the tensors that are alive: convolutions have workspaces that no tensor shows.

Resident memory grew by 1.3 to 1.85 times the tensors' bytes on a CPU, where convolutions lay their inputs out anew.
"""


@dataclass(frozen=True)
class Frames:
    """How latent frames hold frames: the first one alone, each further latent frame `group` of them."""

    group: int

    def latents(self, frames: int) -> int:
        """Latent frames of so many frames; frames that fill no group are left out."""
        return (frames - 1) // self.group + 1 if frames > 0 else 0

    def pictures(self, latents: int) -> int:
        """Frames of so many latent frames."""
        return max(0, latents * self.group - self.group + 1)


@dataclass(frozen=True)
class Peak:
    """Tensor elements that are alive at the worst moment of a pass; measured by benchmarks/vae_memory.py.

    picture: for each pixel of a lone picture. video: for each pixel of one frame, of a video of any length.
    frame: more for each pixel of every frame, what goes in or comes out.
    """

    picture: float
    video: float = 0.0
    frame: float = 0.0

    def elements(self, frames: int, pixels: int) -> float:
        """Of `frames` frames of so many pixels each."""
        return ((self.picture if frames <= 1 else self.video) + self.frame * frames) * pixels


@dataclass(frozen=True)
class Autoencoder:
    """What one autoencoder has that others have not.

    channels, downscale: of a latent; downscale is in pixels a cell, each way. encode, decode: of the network, pictures
    in -1..1 (B, colours, [T,] H, W), latents as nodes see them; None where the file lacks that half. frames: how its
    latents hold frames, None for an autoencoder of pictures. dtypes: it can compute in, the preferred first.
    """

    channels: int
    downscale: int
    encode: Callable[[nn.Module, Tensor], Tensor] | None
    decode: Callable[[nn.Module, Tensor], Tensor] | None
    encode_peak: Peak
    decode_peak: Peak
    colours: int = 3
    frames: Frames | None = None
    dtypes: tuple[torch.dtype, ...] = VAE_DTYPES


@dataclass(frozen=True)
class AutoencoderKind:
    """A kind of autoencoder as files hold it.

    marks: all must hold of a header that `convert` has told in the reference's names (it returns any other as it is);
    of several matching kinds the one with most marks is meant. infer_config, network: the network, from the header and
    the file's overrides. describe: the autoencoder of such a network. title: for messages.
    """

    name: str
    title: str
    marks: tuple[Mark, ...]
    infer_config: Callable[[CheckpointHeader, Overrides], Any]
    network: Callable[[Any], nn.Module]
    describe: Callable[[Any], Autoencoder]
    convert: Callable[[CheckpointHeader], CheckpointHeader] = lambda header: header


@cache
def autoencoders() -> Mapping[str, AutoencoderKind]:
    """Every kind of autoencoder by name: what the modules of the folder `vae` have as `AUTOENCODER`, one or several."""
    package = import_module("limner.models.vae")
    found: dict[str, AutoencoderKind] = {}
    for module in pkgutil.iter_modules(package.__path__):
        offered = getattr(import_module(f"limner.models.vae.{module.name}"), "AUTOENCODER", ())
        for kind in offered if isinstance(offered, tuple) else (offered,):
            found[kind.name] = kind
    return found


def recognise(header: CheckpointHeader) -> tuple[AutoencoderKind, CheckpointHeader] | None:
    """The kind that a bare autoencoder is of, with its header in the reference's names; None for an unknown one."""
    matching = []
    for kind in autoencoders().values():
        converted = kind.convert(header)
        if all(mark.test(converted) for mark in kind.marks):
            matching.append((kind, converted))
    return max(matching, key=lambda match: len(match[0].marks), default=None)


def encoded(network: nn.Module, pictures: Tensor) -> Tensor:
    """`network.encode`, which every network of this folder has."""
    latent: Tensor = network.encode(pictures)  # type: ignore[operator]
    return latent


def decoded(network: nn.Module, latent: Tensor) -> Tensor:
    """`network.decode`, which every network of this folder has."""
    pictures: Tensor = network.decode(latent)  # type: ignore[operator]
    return pictures
