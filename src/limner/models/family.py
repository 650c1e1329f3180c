"""What a model family is: how it is recognised, built and sampled, and what LoRA files call its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from limner.sampling.latent import LatentFormat
from limner.weights.header import CheckpointHeader

Overrides = Mapping[str, Any]


@dataclass(frozen=True)
class Mark:
    """One thing that a file of the family has. name: for messages. test: of the diffusion model's header."""

    name: str
    test: Callable[[CheckpointHeader], bool]


def has(name: str) -> Mark:
    """The mark of a tensor that is there."""
    return Mark(name, lambda header: name in header)


def lacks(name: str) -> Mark:
    """The mark of a tensor that is not there."""
    return Mark(f"no {name}", lambda header: name not in header)


@dataclass(frozen=True)
class TextEncoderSpec:
    """A text encoder inside a family's checkpoints. name: of its file in `models/text`; prefixes: tried in order."""

    name: str
    prefixes: tuple[str, ...]


@dataclass(frozen=True)
class Prediction:
    """How the network's output becomes a picture. kind: of `sampling.make_sampling`; settings: its arguments."""

    kind: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """A model family. Everything that is specific to it is here; nothing outside its file names it.

    marks: all must hold; of several matching families the one with most marks is meant.
    infer_config, network: the network from the diffusion model's header and the file's overrides.
    prediction: from the diffusion model's and the whole file's header.
    concat: what is concatenated to the latent, given the config: of "mask", "masked_image", "image".
    lora_aliases: other names of weights in LoRA files, alias → name, both without suffix, from config and names.
    dtypes: supported, the preferred first. memory_factor: of activations, see `Model.memory_required`.
    """

    name: str
    title: str
    marks: tuple[Mark, ...]
    infer_config: Callable[[CheckpointHeader, Overrides], Any]
    network: Callable[[Any], nn.Module]
    prediction: Callable[[CheckpointHeader, CheckpointHeader], Prediction]
    latent: LatentFormat
    text_encoders: tuple[TextEncoderSpec, ...]
    vae_prefixes: tuple[str, ...] = ("first_stage_model.", "vae.")
    concat: Callable[[Any], tuple[str, ...]] = lambda config: ()  # noqa: ARG005
    lora_aliases: Callable[[Any, Sequence[str]], Mapping[str, str]] = lambda config, names: {}  # noqa: ARG005
    dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16, torch.float32)
    memory_factor: float = 2.0
