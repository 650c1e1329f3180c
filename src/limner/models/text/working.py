"""What encoding takes beside the weights: bytes, from the shapes of an encoder's tensors. Measured by
benchmarks/memory_formula.py."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from limner.models.layers.shapes import Shapes

MARGIN = 1.1
"""Over what was measured."""


@dataclass(frozen=True)
class Rows:
    """What is encoded at once. rows: of so many tokens, a picture one of them. masked: whether padding is hidden.

    pictures: heights and widths in pixels.
    """

    rows: int
    length: int
    dtype: torch.dtype
    masked: bool = False
    pictures: tuple[tuple[int, int], ...] = ()


def of_layers(shapes: Shapes, rows: Rows, table: str, feed_forward: str, inside: float = 2.0) -> float:
    """Of each token the stream, and what a layer's feed-forward makes of it.

    table: the tensor of the token vectors. feed_forward: what names of the first layer's weights inside the
    feed-forward have in them. inside: how many tensors of its width are alive at once.
    """
    width = shapes[table][1]
    inner = max((one[0] for name, one in shapes.items() if feed_forward in name and len(one) == 2), default=width)
    return MARGIN * rows.rows * rows.length * (5 * width + inside * inner) * rows.dtype.itemsize
