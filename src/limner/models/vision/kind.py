"""What a kind of vision encoder is: how a file of it is recognised and built, and how it takes its pictures.

A kind is one file of this folder with a `VISION`; nothing outside that file names it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from torch import nn

from limner.models.convert import clip_vision
from limner.models.family import Mark
from limner.models.vision.transformer import VisionConfig
from limner.weights.header import CheckpointHeader

Overrides = Mapping[str, Any]
PREFIXES = ("", "model.visual.", "clip_vision.", "image_encoder.")
"""What the names of an encoder's own file may begin with."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VisionKind:
    """A kind of vision encoder as files hold it.

    title: for messages. marks: all must hold of a header that is in transformers' names; of several matching kinds the
    one with most marks is meant. infer_config, network: the network, from the header and the file's overrides. mean,
    std: what pictures in 0..1 are normalised by. every_layer: whether all layers' outputs are wanted beside the last
    ones.
    """

    name: str
    title: str
    marks: tuple[Mark, ...]
    infer_config: Callable[[CheckpointHeader, Overrides], VisionConfig]
    network: Callable[[VisionConfig], nn.Module]
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    every_layer: bool = False


@cache
def vision_encoders() -> Mapping[str, VisionKind]:
    """Every kind of vision encoder by name: what the modules of the folder `vision` have as `VISION`."""
    package = import_module("limner.models.vision")
    modules = [import_module(f"limner.models.vision.{one.name}") for one in pkgutil.iter_modules(package.__path__)]
    kinds = [module.VISION for module in modules if isinstance(getattr(module, "VISION", None), VisionKind)]
    return {kind.name: kind for kind in kinds}


def recognise(header: CheckpointHeader) -> tuple[VisionKind, CheckpointHeader] | None:
    """The kind of a vision encoder, with its header in transformers' names; None for an unknown one."""
    part = clip_vision(header)
    matching = [kind for kind in vision_encoders().values() if all(mark.test(part) for mark in kind.marks)]
    if not matching:
        return None
    return max(matching, key=lambda kind: len(kind.marks)), part
