r"""Weights in prompts: `(text)` counts 1.1 times as much, `(text:1.3)` 1.3 times.

Parentheses nest: a bare pair multiplies the weight around it by 1.1, a pair with a number replaces it. `\(` and `\)`
are parentheses of the text. What is not closed is text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

# Stand-ins for escaped parentheses while the text is taken apart: control characters that no prompt holds.
_OPEN, _CLOSE = "\x01", "\x02"
EMPHASIS = 1.1


class Segment(NamedTuple):
    """A stretch of a prompt with one weight."""

    text: str
    weight: float


def parse_weights(prompt: str) -> list[Segment]:
    """The prompt as stretches of text with their weights, in order; empty stretches are left out."""
    segments = []
    # what is still to be taken apart, the next one last; plain text needs no more of it
    pending = [(prompt.replace("\\(", _OPEN).replace("\\)", _CLOSE), 1.0, False)]
    while pending:
        text, weight, plain = pending.pop()
        if plain:
            segments.append(Segment(text.replace(_OPEN, "(").replace(_CLOSE, ")"), weight))
            continue
        pieces = []
        for piece in _top_level(text):
            if len(piece) >= 2 and piece[0] == "(" and piece[-1] == ")":
                pieces.append((*_weight_inside(piece[1:-1], weight), False))
            else:
                pieces.append((piece, weight, True))
        pending.extend(reversed(pieces))
    return segments


def unescaped(prompt: str) -> str:
    """The prompt of a tokenizer that knows no weights: escaped parentheses are parentheses all the same."""
    return prompt.replace("\\(", "(").replace("\\)", ")")


def _weight_inside(text: str, around: float) -> tuple[str, float]:
    """The text of a pair of parentheses without its number, and its weight."""
    before, colon, number = text.rpartition(":")
    if colon and before:
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if math.isfinite(weight):
            return before, weight
    return text, around * EMPHASIS


def _top_level(text: str) -> Iterator[str]:
    """The text cut before each outermost "(" and after each ")" that closes one."""
    depth = start = 0
    for position, letter in enumerate(text):
        if letter == "(":
            if depth == 0 and position > start:
                yield text[start:position]
                start = position
            depth += 1
        elif letter == ")":
            depth -= 1
            if depth == 0:
                yield text[start : position + 1]
                start = position + 1
    if start < len(text):
        yield text[start:]
