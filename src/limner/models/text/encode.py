"""Weighted tokens to conditioning: what a text encoder says of a prompt, stressed where the prompt says so."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.memory.casting import module_device
from limner.models.text.kinds import SeeingNetwork, Special, TextNetwork

log = logging.getLogger(__name__)

ROW = 77
"""Tokens of the row without text, where no row says how long it is and the encoder takes any length."""


@dataclass(frozen=True)
class EncodeSettings:
    """Which of a text encoder's outputs a model family is conditioned on, and its special tokens.

    layer: whose hidden state; -1 the last, -2 the one before …; None the last, normalised. final_norm: whether a
    hidden state goes through the final normalization. project: whether the pooled vector goes through
    text_projection. masked: whether padding is hidden from attention; zero_masked: whether its encoding is zero;
    return_mask: whether the diffusion model is told what is padding (`attention_mask` of the conditioning).
    empty_end: whether the row without text, from which weights are counted, has its start and end tokens.
    start, end, pad: of the tokenizer, where they are other than the encoder's kind has them; -1: no such token.
    """

    layer: int | None = None
    final_norm: bool = True
    project: bool = False
    masked: bool = False
    zero_masked: bool = False
    return_mask: bool = False
    empty_end: bool = True
    start: int | None = None
    end: int | None = None
    pad: int | None = None

    def special(self, kind: Special) -> Special:
        """The special tokens of an encoder of this kind."""
        start, end = (
            theirs if ours is None else ours for ours, theirs in ((self.start, kind.start), (self.end, kind.end))
        )
        return Special(_token(start), _token(end), kind.pad if self.pad is None else self.pad)

    def with_special(self, special: Special) -> EncodeSettings:
        """The same with these special tokens."""
        return replace(self, start=special.start, end=special.end, pad=special.pad)


def _token(number: int | None) -> int | None:
    return None if number is None or number < 0 else number


class Encoded(NamedTuple):
    """A prompt for a diffusion model, in float32. extra: more entries of the conditioning, such as attention_mask."""

    cond: Tensor  # (1, rows · L, D)
    pooled: Tensor | None  # (1, D), of the first row; None of encoders that make no such vector
    extra: Mapping[str, Any] = {}


@dataclass
class _Filled:
    """A row whose vectors and pictures have found their places. ids: -1 where a vector stands; weights: of the same."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    vectors: list[tuple[int, Tensor]] = field(default_factory=list)  # where vectors (N, D) begin
    pictures: list[tuple[int, tuple[int, int, int]]] = field(default_factory=list)  # where grids begin

    def add(self, weight: float, *ids: int) -> None:
        """More tokens of one weight."""
        self.ids += ids
        self.weights += [weight] * len(ids)

    def pad(self, length: int, token: int) -> None:
        """Fill the row up to a length."""
        self.add(1.0, *[token] * (length - len(self.ids)))


def encode_weighted(
    encoder: TextNetwork,
    rows: Sequence[Sequence[Sequence[Any]]],
    settings: EncodeSettings = EncodeSettings(),
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    at_once: int | None = None,
) -> Encoded:
    """Encode rows of (id, vector or picture, weight, …) and put them one behind the other.

    A token's weight w moves its encoding away from what stands there in a row without text:
    z ← (z - z_empty) · w + z_empty. A picture stands for as many places as it has vectors.

    settings: with the special tokens said. dtype: of the computation; the encoder's own where None. device: where it
    computes; where its weights are, if None. at_once: how many rows; all where None. The result is float32 on that
    device.
    """
    filled = [_fill(encoder, row, settings, dtype) for row in rows]
    length = max((len(row.ids) for row in filled), default=encoder.longest or ROW)
    for row in filled:
        row.pad(length, settings.pad or 0)
    weighted = any(weight != 1.0 for row in filled for weight in row.weights)
    asked = [*filled, _Filled(_empty_row(settings, length))] if weighted or not rows else filled
    device = device or module_device(cast(torch.nn.Module, encoder))
    # What stands around pictures has their row's positions: such rows are not parted.
    each = len(asked) if at_once is None or any(row.pictures for row in asked) else at_once
    done = [_encode_rows(encoder, asked[i : i + each], settings, dtype, device) for i in range(0, len(asked), each)]
    states, pooled, mask = done[0]  # the pooled vector is the first row's
    if len(done) > 1:
        states, mask = torch.cat([one for one, _, _ in done]), torch.cat([one for _, _, one in done])
    if weighted:
        scale = torch.tensor([row.weights for row in filled], device=states.device)[..., None]
        states = (states[:-1] - states[-1:]) * scale + states[-1:]
        mask = mask[:-1]
    extra = {"attention_mask": mask.to(torch.int64).flatten()[None]} if settings.return_mask else {}
    return Encoded(states.flatten(0, 1)[None], None if pooled is None else pooled[:1], extra)


def _empty_row(settings: EncodeSettings, length: int) -> list[int]:
    """The ids of a row without text."""
    ends = [one for one in map(_token, (settings.start, settings.end)) if one is not None]
    ends = ends if settings.empty_end else []
    return [*ends, *[settings.pad or 0] * (length - len(ends))][:length]


def _encode_rows(
    encoder: TextNetwork,
    rows: list[_Filled],
    settings: EncodeSettings,
    dtype: torch.dtype | None,
    device: torch.device,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The states (B, L, D) and pooled vectors (B, D) of rows, in float32, and what is no padding (B, L)."""
    ids = torch.tensor([row.ids for row in rows], device=device)
    embeds = encoder.embed(ids.clamp(min=0), dtype)
    if any(row.vectors for row in rows):
        embeds = embeds.clone()
        for number, row in enumerate(rows):
            for place, vectors in row.vectors:
                embeds[number, place : place + len(vectors)] = vectors.to(embeds)
    mask = not_padding(ids, _token(settings.end), settings.pad or 0)
    # more layers back than there are means the last one: CLIP-L's 12 are asked for -24 by workflows made for others
    layer = settings.layer if settings.layer is not None and abs(settings.layer) <= encoder.depth else None
    places: dict[str, Any] = {}
    if rows[0].pictures:
        places["positions"] = cast(SeeingNetwork, encoder).positions(ids.shape[1], rows[0].pictures, ids.device)
    out = encoder(
        ids,
        layer,
        embeds=embeds,
        final_norm=settings.final_norm,
        attention_mask=mask if settings.masked else None,
        **places,
    )
    states = (out.last if out.hidden is None else out.hidden).float()
    if settings.masked and settings.zero_masked:
        states = states * mask[..., None]
    pooled = out.projected if settings.project and out.projected is not None else out.pooled
    return states, None if pooled is None else pooled.float(), mask


def not_padding(ids: Tensor, end: int | None, pad: int) -> Tensor:
    """(B, L), true from behind the padding at the left up to the first end token, or to the padding at the right.

    A row that is nothing but padding is all true, as a token must see something.
    """
    before = (ids == pad).cumprod(1).bool()
    if end is None:
        behind = (ids == pad).flip(1).cumprod(1).bool().flip(1)
    else:
        ends = ((ids == end) & ~before).int()
        behind = (ends.cumsum(1) - ends) > 0
    seen = ~before & ~behind
    return seen | ~seen.any(1, keepdim=True)


def _fill(
    encoder: TextNetwork, row: Sequence[Sequence[Any]], settings: EncodeSettings, dtype: torch.dtype | None
) -> _Filled:
    """A row's ids, vectors and pictures in their places.

    Vectors made for an encoder of another width are dropped and the row padded again.
    """
    found = _Filled()
    dropped = 0
    for token in row:
        one, weight = token[0], float(token[1])
        if isinstance(one, Mapping):
            seen = _seeing(encoder).see(_picture(one), dtype)
            found.pictures.append((len(found.ids), seen.grid))
            vectors = seen.vectors
        elif isinstance(one, Tensor) and one.dim() > 0:
            vectors = one[None]
            if one.shape[-1] != encoder.width:
                dropped += 1
                continue
        else:
            found.add(weight, int(one))
            continue
        found.vectors.append((len(found.ids), vectors))
        found.add(weight, *[-1] * len(vectors))
    if dropped:
        log.warning(
            "An embedding made for another text encoder is left out: this one's vectors are %d wide.", encoder.width
        )
    found.pad(len(found.ids) + dropped, settings.pad or 0)
    return found


def _seeing(encoder: TextNetwork) -> SeeingNetwork:
    if not hasattr(encoder, "see"):
        raise BadInput("This text encoder reads no pictures.", do="Use one that does, such as Qwen2.5-VL.")
    return cast(SeeingNetwork, encoder)


def _picture(token: Mapping[str, Any]) -> Tensor:
    data = token.get("data")
    if token.get("type") != "image" or not isinstance(data, Tensor):
        raise BadInput(f"A token of the type {token.get('type')!r} is not known.", why="Known are ids and images.")
    return data
