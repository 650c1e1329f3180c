"""Weighted tokens to conditioning: what a text encoder says of a prompt, stressed where the prompt says so."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from limner.models.text.clip import CLIPText

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodeSettings:
    """Which of a text encoder's outputs a model family is conditioned on, and its special tokens."""

    layer: int | None = None  # hidden state of this layer (-1: last, -2: one before …); None: the last, normalised
    final_norm: bool = True  # whether a hidden state goes through the final normalization
    project: bool = False  # whether the pooled vector goes through text_projection
    masked: bool = False  # whether padding is hidden from attention
    start: int = 49406
    end: int = 49407
    pad: int = 49407


class Encoded(NamedTuple):
    """A prompt for a diffusion model, in float32."""

    cond: Tensor  # (1, rows · L, D)
    pooled: Tensor  # (1, D), of the first row


def encode_weighted(
    encoder: CLIPText,
    rows: Sequence[Sequence[Sequence[Any]]],
    settings: EncodeSettings = EncodeSettings(),
    dtype: torch.dtype | None = None,
) -> Encoded:
    """Encode rows of (id or vector, weight, …) and put them one behind the other.

    A token's weight w moves its encoding away from what stands there in a row without text:
    z ← (z - z_empty) · w + z_empty.

    dtype: of the computation; the encoder's own where None. The result is float32 on the encoder's device.
    """
    length = max((len(row) for row in rows), default=encoder.config.max_position_embeddings)
    empty = [(settings.start, 1.0), (settings.end, 1.0), *[(settings.pad, 1.0)] * (length - 2)][:length]
    weights = [[float(token[1]) for token in row] for row in rows]
    weighted = any(weight != 1.0 for row in weights for weight in row)
    asked = [*rows, empty] if weighted or not rows else list(rows)
    states, pooled = _encode_rows(encoder, asked, settings, dtype)
    if weighted:
        scale = torch.tensor(weights, device=states.device)[..., None]
        states = (states[:-1] - states[-1:]) * scale + states[-1:]
    return Encoded(states.flatten(0, 1)[None], pooled[:1])


def _encode_rows(
    encoder: CLIPText, rows: list[Any], settings: EncodeSettings, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """The states (B, L, D) and pooled vectors (B, D) of rows, in float32."""
    table = encoder.text_model.embeddings.token_embedding.weight
    fitting = [_without_misfits(row, table.shape[1], settings.pad) for row in rows]
    vector_places = [
        (row, place) for row, tokens in enumerate(fitting) for place, token in enumerate(tokens) if _is_vector(token)
    ]
    # a vector's place holds a padding id, unless that is also the end token, which marks what is pooled
    stand_in = settings.pad if settings.pad != settings.end else settings.start
    numbers = [[stand_in if _is_vector(token) else int(token) for token in row] for row in fitting]
    ids = torch.tensor(numbers, device=table.device)
    embeds = encoder.embed(ids, dtype)
    if vector_places:
        embeds = embeds.clone()
        for row, place in vector_places:
            embeds[row, place] = fitting[row][place].to(embeds)
    mask = _until_end(ids, settings.end) if settings.masked else None
    layers = encoder.config.num_hidden_layers
    # more layers back than there are means the last one: CLIP-L's 12 are asked for -24 by workflows made for others
    layer = settings.layer if settings.layer is not None and abs(settings.layer) <= layers else None
    out = encoder(ids, layer, embeds=embeds, final_norm=settings.final_norm, attention_mask=mask)
    states = out.last if out.hidden is None else out.hidden
    pooled = out.projected if settings.project and out.projected is not None else out.pooled
    return states.float(), pooled.float()


def _is_vector(token: object) -> bool:
    return isinstance(token, Tensor) and token.dim() > 0


def _without_misfits(row: Sequence[Sequence[Any]], width: int, pad: int) -> list[Any]:
    """The row's ids and vectors; vectors made for an encoder of another width are dropped and the row padded again."""
    kept = [token[0] for token in row if not (_is_vector(token[0]) and token[0].shape[-1] != width)]
    if len(kept) < len(row):
        log.warning("An embedding made for another text encoder is left out: this one's vectors are %d wide.", width)
    return kept + [pad] * (len(row) - len(kept))


def _until_end(ids: Tensor, end: int) -> Tensor:
    """(B, L), true up to the first end token."""
    ends = (ids == end).int()
    return (ends.cumsum(1) - ends) == 0
