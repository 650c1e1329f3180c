"""What a kind of vision encoder is: how a file of it is recognised and built, and how it takes its pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from limner.models.family import Mark
from limner.models.vision.transformer import VisionConfig
from limner.weights.header import CheckpointHeader

Overrides = Mapping[str, Any]
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VisionKind:
    """A kind of vision encoder as files hold it.

    marks: all must hold of a header that is in transformers' names; of several matching kinds the one with most marks
    is meant. infer_config, network: the network, from the header and the file's overrides. mean, std: what pictures in
    0..1 are normalised by. every_layer: whether all layers' outputs are wanted beside the last ones.
    """

    name: str
    marks: tuple[Mark, ...]
    infer_config: Callable[[CheckpointHeader, Overrides], VisionConfig]
    network: Callable[[VisionConfig], nn.Module]
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    every_layer: bool = False
