"""What kind of text encoder a file holds: the registry of `ENCODERS` of the files of this folder.

A kind says how its tensors are recognised, named, built and tokenized. Which of its outputs a diffusion model is
conditioned on is the model family's matter (`limner.models.text.recipe`).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from limner.models.layers.shapes import Overrides, Shapes
from limner.models.metadata import components
from limner.models.text.vocabulary import VocabularySource
from limner.models.text.working import Rows
from limner.weights.header import CheckpointHeader


class TextOutput(NamedTuple):
    """What a text encoder says of B rows of tokens."""

    last: Tensor  # (B, L, D), after the final normalization
    hidden: Tensor | None  # (B, L, D), of the layer asked for
    pooled: Tensor | None = None  # (B, D), of encoders that make one vector of a row
    projected: Tensor | None = None  # (B, P): `pooled` through text_projection, where there is one


class TextNetwork(Protocol):
    """What every text encoder's network can do.

    depth: how many layers. width: of a token's vector. longest: tokens that a row may have; None for any number.
    """

    @property
    def depth(self) -> int:
        """How many layers."""

    @property
    def width(self) -> int:
        """Of a token's vector."""

    @property
    def longest(self) -> int | None:
        """Tokens that a row may have; None for any number."""

    def embed(self, token_ids: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The vectors of ids (B, L): (B, L, D), in the table's dtype or the one given."""

    def __call__(
        self,
        token_ids: Tensor,
        layer: int | None = None,
        *,
        embeds: Tensor | None = None,
        final_norm: bool = False,
        attention_mask: Tensor | None = None,
    ) -> TextOutput:
        """Encode rows.

        token_ids: (B, L). layer: whose output `hidden` is, -1 the last; final_norm: whether that is normalised.
        embeds: (B, L, D), in place of the ids' vectors. attention_mask: (B, L), false where a token is not seen.
        """


class Seen(NamedTuple):
    """A picture as a text encoder reads it: vectors (N, D) in place of one token, and its grid (frames, rows,
    columns)."""  # fmt: skip

    vectors: Tensor
    grid: tuple[int, int, int]


class SeeingNetwork(TextNetwork, Protocol):
    """A text encoder that also reads pictures."""

    def see(self, picture: Tensor, dtype: torch.dtype | None = None) -> Seen:
        """A picture (1, H, W, 3) in 0..1 as vectors."""

    def positions(
        self, length: int, pictures: Sequence[tuple[int, tuple[int, int, int]]], device: torch.device | None = None
    ) -> Tensor:
        """The positions (3, length) of a row in which pictures begin at these places."""


@dataclass(frozen=True)
class Special:
    """Ids of a row's special tokens; None where the tokenizer has no such token."""

    start: int | None
    end: int | None
    pad: int


@dataclass(frozen=True)
class EncoderKind:
    """A kind of text encoder.

    name: in patch keys and of the part of a CLIP ("clip_l"). title: for people.
    convert: a header in any layout that its publishers use → under the network's names; what belongs to other parts
    is left out. recognise: whether a header under these names is of this kind, as far as a bare file can tell;
    fits: whether it may be, where the family has said that it is there.
    config, network: the network from shapes and what the file's config says.
    table: the tensor of the token vectors. special: ids of special tokens. vocabulary: where its vocabulary is from.
    working: bytes that encoding takes beside the weights, from their shapes and what is encoded.
    embeddings: whether `embedding:NAME` is understood. picture: the token that a picture stands in the place of.
    lora: what LoRA files call a module: (name without `.weight`, names of all kinds in the CLIP) → names.
    """

    name: str
    title: str
    convert: Callable[[CheckpointHeader], CheckpointHeader]
    recognise: Callable[[CheckpointHeader], bool]
    fits: Callable[[CheckpointHeader], bool]
    config: Callable[[Shapes, Overrides], Any]
    network: Callable[[Any], nn.Module]
    table: str
    special: Special
    vocabulary: VocabularySource
    working: Callable[[Shapes, Rows], float]
    embeddings: bool = True
    picture: int | None = None
    lora: Callable[[str, frozenset[str]], Sequence[str]] = lambda name, others: ()  # noqa: ARG005


@cache
def encoders() -> Mapping[str, EncoderKind]:
    """Every kind by name: the modules of this folder that have `ENCODERS`."""
    package = import_module("limner.models.text")
    found: dict[str, EncoderKind] = {}
    for module in pkgutil.iter_modules(package.__path__):
        kinds = getattr(import_module(f"limner.models.text.{module.name}"), "ENCODERS", ())
        found |= {kind.name: kind for kind in kinds}
    return found


class Part(NamedTuple):
    """One text encoder of a file, under its network's names."""

    kind: EncoderKind
    header: CheckpointHeader


def parts_of(header: CheckpointHeader) -> list[Part]:
    """The text encoders of a file: a bare one, or several under the names that checkpoints give them.

    A file whose `config` metadata names a kind holds that kind: what is made smaller than any published file cannot
    be told by its layers.
    """
    named = [Part(kind, part) for kind in encoders().values() if (part := _under_its_name(kind, header)) is not None]
    if named:
        return named
    for prefix in ("", "cond_stage_model.", "text_encoder.", "text_encoders."):
        part = header.select(prefix)
        matching = [kind for kind in encoders().values() if kind.recognise(kind.convert(part))]
        if matching:
            kind = _said(header, [kind for kind in encoders().values() if kind.fits(kind.convert(part))]) or matching[0]
            return [Part(kind, kind.convert(part))]
    return []


def _under_its_name(kind: EncoderKind, header: CheckpointHeader) -> CheckpointHeader | None:
    for prefix in (f"{kind.name}.", f"text_encoders.{kind.name}."):
        part = kind.convert(header.select(prefix))
        if kind.fits(part):
            return part
    return None


def _said(header: CheckpointHeader, kinds: Sequence[EncoderKind]) -> EncoderKind | None:
    said = components(header)
    return next((kind for kind in kinds if kind.name in said), None)
