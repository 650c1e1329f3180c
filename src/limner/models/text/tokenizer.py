"""Prompts as rows of weighted tokens, laid out as a text encoder takes them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from torch import Tensor

from limner.errors import BadInput
from limner.models.text.vocabulary import Vocabulary
from limner.models.text.weighting import Segment, parse_weights, unescaped

log = logging.getLogger(__name__)

Token: TypeAlias = tuple[int | Tensor, float, int]  # id or vector (D,), weight, word (1 …; 0 for start, end, padding)
Row: TypeAlias = list[Token]
FindEmbedding: TypeAlias = Callable[[str], Tensor | None]  # name → vectors (D,) or (count, D)

EMBEDDING = "embedding:"
LONG_WORD = 8  # tokens; a shorter word is not split between two rows
OPTIONS = ("min_padding", "min_length", "max_length", "pad_to_max", "pad_left", "weights")
"""What files and workflows may say of a tokenizer; see `RowTokenizer`."""


@dataclass(frozen=True)
class RowTokenizer:
    """Prompts to rows of tokens.

    A row is a start token, tokens of the prompt, an end token, then padding (or the padding first). A prompt that is
    too long for one row goes on in the next.

    start, end: None where rows have none. max_length: tokens in a row, with start and end; None for one row without
    end. min_padding: padding that every row has, whatever its length. pad_to_max: whether rows are then padded to
    max_length. min_length: to which they are padded at least. pad_left: padding stands before the prompt instead of
    behind it. weights: whether `(text:1.2)` is understood; if not, parentheses are text.
    """

    vocabulary: Vocabulary
    start: int | None = 49406
    end: int | None = 49407
    pad: int = 49407  # 0 for CLIP-G and CLIP-H
    max_length: int | None = 77
    min_length: int = 0
    min_padding: int = 0
    pad_to_max: bool = True
    pad_left: bool = False
    weights: bool = True

    def with_options(self, options: Mapping[str, Any]) -> RowTokenizer:
        """The same with some of `OPTIONS` changed. Raises BadInput for a value that cannot be one."""
        if not options:
            return self
        changes: dict[str, Any] = {}
        for name, value in options.items():
            whole = name not in ("pad_to_max", "pad_left", "weights")
            fits = isinstance(value, int) and value >= 0 if whole else isinstance(value, bool | int)
            if not fits and not (name == "max_length" and value is None):
                raise BadInput(
                    f"The tokenizer cannot have {name} = {value!r}.",
                    why="It must be a whole number, 0 or more." if whole else "It must be true or false.",
                )
            changes[name] = value if whole else bool(value)
        return replace(self, **changes)

    def rows(self, prompt: str, find_embedding: FindEmbedding | None = None) -> list[Row]:
        """The prompt as rows of (id, weight, word), at least one row.

        find_embedding: gives the vectors of `embedding:NAME` in the prompt, None for a name it does not know; that
        name is then left out with a warning. Without it `embedding:NAME` is text, cut from what is before it.
        """
        words = [
            [(token, weight) for token in tokens]
            for text, weight in (parse_weights(prompt) if self.weights else [Segment(unescaped(prompt), 1.0)])
            for tokens in self._words(text, find_embedding)
        ]
        return self._chunks(words)

    def ids(self, text: str) -> list[int]:
        """The ids of a text, without start and end."""
        return self.vocabulary.ids(text)

    def whole(self, text: str) -> list[int]:
        """The ids of a text with start and end."""
        before, behind = ([] if one is None else [one] for one in (self.start, self.end))
        return [*before, *self.ids(text), *behind]

    def _words(self, text: str, find_embedding: FindEmbedding | None) -> Iterator[Sequence[int | Tensor]]:
        """The tokens of each word of a text; a word is what stands between embeddings, however long."""
        for piece in re.split(rf"[ \n](?={EMBEDDING})", text):
            rest = piece
            if find_embedding is not None and piece.startswith(EMBEDDING):
                name, _, rest = piece.removeprefix(EMBEDDING).partition(" ")
                vectors, comma = _look_up(name, find_embedding)
                rest = f"{comma} {rest}" if comma else rest
                if vectors is not None:
                    yield list(vectors if vectors.dim() > 1 else vectors[None])
            if rest:
                yield self.ids(rest)

    def _chunks(self, words: list[list[tuple[int | Tensor, float]]]) -> list[Row]:
        """Words laid into rows: a long one is cut where its row ends, a short one that does not fit starts the next."""
        first: Row = [] if self.start is None else [(self.start, 1.0, 0)]
        behind: Row = [] if self.end is None else [(self.end, 1.0, 0)]
        rows: list[Row] = [list(first)]
        for number, word in enumerate(words, 1):
            tokens = [(token, weight, number) for token, weight in word]
            while tokens:
                room = len(tokens) if self.max_length is None else self.max_length - len(behind) - len(rows[-1])
                if len(tokens) <= room:
                    rows[-1] += tokens
                    break
                if len(word) >= LONG_WORD:
                    rows[-1] += tokens[:room]
                    tokens = tokens[room:]
                rows.append(list(first))
        return [self.padded([*row, *behind]) for row in rows]

    def padded(self, row: Row) -> Row:
        """A row with its padding."""
        length = len(row) + self.min_padding
        if self.pad_to_max and self.max_length is not None:
            length = max(length, self.max_length)
        padding: Row = [(self.pad, 1.0, 0)] * (max(length, self.min_length) - len(row))
        return [*padding, *row] if self.pad_left else [*row, *padding]


def _look_up(name: str, find_embedding: FindEmbedding) -> tuple[Tensor | None, str]:
    """The vectors of a name, and what was written right behind it: `embedding:name,` means `name` and a comma."""
    vectors = find_embedding(name)
    bare = name.rstrip(",")
    if vectors is not None or bare == name:
        comma = ""
    else:
        vectors, comma = find_embedding(bare), name[len(bare) :]
    if vectors is None:
        log.warning("embedding:%s does not exist and is left out.", bare)
    return vectors, comma
