"""What a model family is: how it is recognised, built and sampled, and what other files call its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limner.models.conditions import standard_conditions
from limner.models.text.recipe import TextEncoding
from limner.sampling.latent import LatentFormat
from limner.weights.header import CheckpointHeader
from limner.weights.targets import Target

if TYPE_CHECKING:
    from limner.models.base import BaseModel

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
class Prediction:
    """How the network's output becomes a picture. kind: of `sampling.make_sampling`; settings: its arguments.

    latent: the latent format, where the file has another than its family.
    """

    kind: str
    settings: Mapping[str, Any]
    latent: LatentFormat | None = None


@dataclass(frozen=True)
class DiffusersLayout:
    """The diffusers library's names for a family's tensors.

    marks: of a header under these names. targets: of such a header, diffusers' name → where it belongs (see
    `limner.weights.targets`).
    """

    marks: tuple[Mark, ...]
    targets: Callable[[CheckpointHeader], Mapping[str, Target]]


@dataclass(frozen=True)
class LoraLayout:
    """LoRA files of another program, whose tensors are called otherwise than LoRAs' are.

    marks: of such a file's header. known: such a header → the same under names that are known.
    """

    marks: tuple[Mark, ...]
    known: Callable[[CheckpointHeader], CheckpointHeader]


@dataclass(frozen=True)
class LoraNames:
    """What LoRA files call a family's weights beside `lora_unet_…` and `diffusion_model.…` of the reference's names.

    aliases: other names of weights, without `.weight` → target, from the config and the network's names.
    templates: how an alias is written, with {dots} or {flat} (dots as underscores). own: how the reference's own
    names are written, in the same way. parts: names of parts of weights, written with `diffusion_model.` before them.
    signs: parts of names, flat, by which people are told what a LoRA is for that belongs to another family.
    layouts: of files whose tensors are called otherwise.
    """

    aliases: Callable[[Any, Sequence[str]], Mapping[str, Target]] = lambda config, names: {}  # noqa: ARG005
    templates: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    parts: Callable[[Any, Sequence[str]], Mapping[str, Target]] = lambda config, names: {}  # noqa: ARG005
    signs: tuple[str, ...] = ()
    layouts: tuple[LoraLayout, ...] = ()


@dataclass(frozen=True)
class Variant:
    """A published build of a family that its dimensions tell. title: for people; test: of a network's config."""

    name: str
    title: str
    test: Callable[[Any], bool]


def no_vector(model: BaseModel, entries: Mapping[str, Any]) -> Tensor | None:  # noqa: ARG001
    """The vector beside time and text of families that take none."""
    return None


@dataclass(frozen=True)
class Family:
    """A model family. Everything that is specific to it is here; nothing outside its file names it.

    marks: all must hold; of several matching families the one with most marks is meant.
    infer_config, network: the network from the diffusion model's header and the file's overrides.
    prediction: from the diffusion model's and the whole file's header.
    text: its text encoders; None where it has none.
    conditions: a model and one condition's entries → what the network is given beside the latent, by argument name;
    a value may be a tensor or a condition value of `limner.sampling.condition_values`.
    vector: the vector `y` beside time and text, made of the same entries.
    context_width: features of a text token that the network takes, given the config; None where it takes any.
    concat: what is concatenated to the latent, given the config: of "mask", "masked_image", "image".
    grown: the config of a network some of whose weights a LoRA has made larger, given the config and their shapes.
    variants: builds that differ in dimensions alone; of several that fit the first is meant.
    diffusers: the layout in which the diffusers library keeps it, where that differs. layouts: any others.
    lora: names in LoRA files.
    legacy: what the reference's configuration says of a network beside its dimensions or in another way, given the
    config; packs read it.
    saved_prefix: of its tensors in checkpoints that are saved. modelspec: its name in the ModelSpec standard of
    metadata; its own where empty.
    dtypes: supported, the preferred first.
    memory_factor: of one pass, in hundredths of a MiB for each latent cell and byte of a number; memory_text: how many
    latent cells a token of the text takes as much as; memory_least: what it takes however small the picture is, in MiB
    for each byte of a number; memory_scale: what a network takes of that, given the config,
    where builds differ in width. Measured by benchmarks/memory_formula.py; see `BaseModel.memory_required`.
    """

    name: str
    title: str
    marks: tuple[Mark, ...]
    infer_config: Callable[[CheckpointHeader, Overrides], Any]
    network: Callable[[Any], nn.Module]
    prediction: Callable[[CheckpointHeader, CheckpointHeader], Prediction]
    latent: LatentFormat
    text: TextEncoding | None = None
    vae_prefixes: tuple[str, ...] = ("first_stage_model.", "vae.")
    conditions: Callable[[BaseModel, Mapping[str, Any]], dict[str, Any]] = standard_conditions
    vector: Callable[[BaseModel, Mapping[str, Any]], Tensor | None] = no_vector
    context_width: Callable[[Any], int | None] = lambda config: None  # noqa: ARG005
    concat: Callable[[Any], tuple[str, ...]] = lambda config: ()  # noqa: ARG005
    grown: Callable[[Any, Mapping[str, tuple[int, ...]]], Any] = lambda config, shapes: config  # noqa: ARG005
    variants: tuple[Variant, ...] = ()
    diffusers: DiffusersLayout | None = None
    layouts: tuple[DiffusersLayout, ...] = ()
    lora: LoraNames = LoraNames()
    legacy: Callable[[Any], Mapping[str, Any]] = lambda config: {}  # noqa: ARG005
    saved_prefix: str = "model.diffusion_model."
    modelspec: str = ""
    dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16, torch.float32)
    memory_factor: float = 2.0
    memory_text: float = 8.0
    memory_least: float = 0.0
    memory_scale: Callable[[Any], float] = lambda config: 1.0  # noqa: ARG005

    def variant(self, config: Any) -> Variant | None:
        """The build that a network of this config is; None for the family's own."""
        return next((variant for variant in self.variants if variant.test(config)), None)
