"""What a family is conditioned on: which text encoders, how their tokens are laid out, how their outputs are joined.

A family's file holds one `TextEncoding`; the loaders of `limner.models.load_text` do the rest. Nothing here is read or
computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from limner.models.text.encode import Encoded, EncodeSettings

Tokens = Mapping[str, Sequence[Sequence[Sequence[Any]]]]
"""Rows of (id, vector or picture, weight[, word]) by the key of a text encoder."""


@dataclass(frozen=True)
class RowSettings:
    """How a prompt is laid into rows of tokens. None: as the tokenizer has it.

    min_length: a row is padded to it. max_length: a longer prompt goes on in the next row; None for one row without
    end. pad_to_max: rows are padded to max_length. pad_left: padding stands before the prompt (`pad_left` of the
    seed). weights: whether `(text:1.2)` is understood; if not, parentheses are text. embeddings: whether
    `embedding:NAME` is, where the encoder's kind knows them.
    """

    min_length: int = 1
    max_length: int | None = 77
    pad_to_max: bool = True
    pad_left: bool = False
    weights: bool = True
    embeddings: bool = True


@dataclass(frozen=True)
class TextPart:
    """One text encoder of a family.

    encoder: its kind, an entry of a file in `models/text` ("clip_l", "t5xxl"); also its name in patch keys. key: of
    its tokens ("l", "t5xxl"). prefixes: of its tensors in checkpoints, tried in order. optional: the family works
    without it.
    """

    encoder: str
    key: str
    prefixes: tuple[str, ...]
    settings: EncodeSettings
    rows: RowSettings = RowSettings()
    optional: bool = False


def only(outputs: Mapping[str, Encoded]) -> Encoded:
    """The output of the only text encoder."""
    (found,) = outputs.values()
    return found


@dataclass(frozen=True)
class TextEncoding:
    """The text side of a family.

    types: words of the loader nodes that mean it ("flux"). default_for: kinds of files that mean it when the loader's
    word names nothing that takes them, such as (("clip_l",),), in any order. combine: the outputs by encoder name →
    conditioning; optional parts may be missing. template: (prompt, options of `tokenize`) → what is tokenized; of the
    options `images` is a list of pictures, for each of which it leaves a place (`<|image_pad|>`). trim: (tokens,
    output) by encoder → the output without what the template added; a picture is one token, and several places of the
    output.
    """

    types: tuple[str, ...]
    parts: tuple[TextPart, ...]
    combine: Callable[[Mapping[str, Encoded]], Encoded] = only
    template: Callable[[str, Mapping[str, Any]], str] | None = None
    trim: Callable[[Tokens, Encoded], Encoded] | None = None
    default_for: tuple[tuple[str, ...], ...] = field(default=())

    def kinds(self) -> frozenset[str]:
        """The kinds of all its encoders."""
        return frozenset(part.encoder for part in self.parts)

    def required(self) -> frozenset[str]:
        """The kinds of those that must be there."""
        return frozenset(part.encoder for part in self.parts if not part.optional)
