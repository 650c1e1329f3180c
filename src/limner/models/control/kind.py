"""What a kind of control is: how its files are recognised, and how a control is made of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limner.memory import MemoryManager
from limner.memory.dtypes import UNET_ORDER
from limner.models.control.base import ControlBase, unchanged
from limner.models.control.network import ControlNet
from limner.models.family import Mark
from limner.models.metadata import overrides
from limner.models.source_patcher import SourcePatcher
from limner.sampling.latent import LatentFormat
from limner.weights import CheckpointHeader, NetworkSource

SHUFFLE = ("_shuffle", "_shuffle_fp16")
"""Endings of file names of controls that follow the hint's style, not its places: residuals are averaged."""


@dataclass(frozen=True)
class Layout:
    """One way in which files of a kind name their tensors. marks: all must hold. convert: to the network's names."""

    marks: tuple[Mark, ...]
    convert: Callable[[CheckpointHeader], CheckpointHeader] = lambda header: header


@dataclass(frozen=True)
class Hint:
    """What the network is shown. ratio: pixels a latent cell (cells, where it is shown a latent).

    latent: the format of a latent; None for pictures. mask: whether a mask is joined. prepare: of the picture in 0..1.
    """

    ratio: int = 8
    latent: LatentFormat | None = None
    mask: bool = False
    prepare: Callable[[Tensor], Tensor] = unchanged


@dataclass(frozen=True)
class ControlFile:
    """A control's file. header: under the network's names. model: the diffusion model it is loaded for, or None."""

    header: CheckpointHeader
    memory: MemoryManager
    model: Any = None

    @property
    def said(self) -> Mapping[str, Any]:
        """What the file's config says of the network."""
        return overrides(self.header, "controlnet")

    @property
    def shuffles(self) -> bool:
        """Whether its residuals are averaged over the picture, as the file's name says."""
        return self.header.path.stem.endswith(SHUFFLE)

    def patcher(self, kind: ControlKind, network: Callable[[], nn.Module]) -> SourcePatcher:
        """Its tensors as a network that is loaded when it is used."""
        source = NetworkSource(kind.title, network, self.header.tensors, self.header.identity)
        return SourcePatcher(source, self.memory, self.memory.device, lambda: self.memory.unet_precision(kind.dtypes))


def make_control_net(kind: ControlKind, file: ControlFile) -> ControlBase:
    """The control of a file, for kinds whose network is all there is to say."""
    config = kind.infer_config(file.header, file.said)
    hint = kind.hint(config)
    made = kind.control(
        file.patcher(kind, partial(kind.network, config)),
        global_average_pooling=file.shuffles,
        compression_ratio=hint.ratio,
        latent_format=hint.latent,
        load_device=file.memory.device,
        extra_conds=list(kind.extra_conds),
        concat_mask=hint.mask,
        preprocess_image=hint.prepare,
    )
    made.residuals_of_cell = kind.residuals(config)
    return made


@dataclass(frozen=True)
class ControlKind:
    """A kind of control. Everything that is specific to it is in its file; nothing outside that names it.

    title: for messages; layouts: how its files may look. infer_config, network: as of a model family. hint: what the
    network is shown, from its config. residuals: how many numbers what it makes has for each latent cell, from its
    config. extra_conds: entries of a condition that it is given beside the text.
    control: the class of the object that nodes hand on. make: how one is made of a file.
    """

    name: str
    title: str
    layouts: tuple[Layout, ...]
    infer_config: Callable[[CheckpointHeader, Mapping[str, Any]], Any]
    network: Callable[[Any], nn.Module]
    hint: Callable[[Any], Hint] = lambda config: Hint()  # noqa: ARG005
    residuals: Callable[[Any], float] = lambda config: 0.0  # noqa: ARG005
    extra_conds: tuple[str, ...] = ("y",)
    dtypes: tuple[torch.dtype, ...] = field(default=tuple(UNET_ORDER))
    control: Callable[..., ControlBase] = ControlNet
    make: Callable[[ControlKind, ControlFile], ControlBase] = make_control_net
