"""Large pictures piece by piece: overlapping tiles whose edges fade into each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput


def _positions(extent: int, tile: int, overlap: int) -> Iterator[int]:
    """Where tiles start on one axis; the last may be shorter than a tile."""
    if extent <= tile:
        yield 0
        return
    if overlap >= tile:
        raise BadInput(f"Tiles of {tile} cannot overlap by {overlap}.", do="Make the tiles larger or the overlap less.")
    for start in range(0, extent - overlap, tile - overlap):
        yield max(0, min(extent - overlap, start))


def _amount(value: Any, axis: int) -> Any:
    return value[axis] if isinstance(value, list | tuple) else value


def _scaled(amount: Any, number: float, down: bool) -> float:
    if callable(amount):
        return float(amount(number))
    return number / amount if down else number * amount


def tiled_scale_multidim(
    samples: Tensor,
    function: Callable[[Tensor], Tensor],
    tile: tuple[int, ...],
    *,
    overlap: Any,
    scale: Any,
    out_channels: int,
    downscale: bool = False,
    index_formulas: Any = None,
    done: Callable[[], Any] | None = None,
    place: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> Tensor:
    """`function` applied tile by tile over any number of axes, each with an overlap and a scale of its own.

    scale: how much larger the result is, a number or a function of an extent, for all axes or each; downscale: it is
    so much smaller. index_formulas: the same for places. done: called after each tile. place: of the result's tensors.
    """
    axes = len(tile)
    spatial = samples.shape[2:]
    formulas = scale if index_formulas is None else index_formulas
    sizes = [max(1, round(_scaled(_amount(scale, i), spatial[i], downscale))) for i in range(axes)]
    output = place(samples.new_zeros((samples.shape[0], out_channels, *sizes), dtype=torch.float32))
    for row in range(samples.shape[0]):
        picture = samples[row : row + 1]
        if all(extent <= limit for extent, limit in zip(spatial, tile, strict=True)):
            output[row : row + 1] = place(function(picture))
            if done is not None:
                done()
            continue
        total = output.new_zeros((1, 1, *output.shape[2:]))
        steps = [list(_positions(spatial[i], tile[i], _amount(overlap, i))) for i in range(axes)]
        for corner in product(*steps):
            part, where = picture, [slice(None), slice(None)]
            starts = []
            for i, start in enumerate(corner):
                part = part.narrow(i + 2, start, min(tile[i], spatial[i] - start))
                starts.append(round(_scaled(_amount(formulas, i), start, downscale)))
            made = place(function(part).to(torch.float32, copy=True))
            weight = made.new_ones((1, 1, *made.shape[2:]))
            for i in range(axes):
                _fade(weight, i + 2, round(_scaled(_amount(scale, i), _amount(overlap, i), downscale)))
                where.append(slice(starts[i], starts[i] + made.shape[i + 2]))
            output[row : row + 1][tuple(where)] += made.mul_(weight)
            total[tuple(where)] += weight
            if done is not None:
                done()
        output[row : row + 1] /= total
    return output


def _fade(weight: Tensor, axis: int, feather: int) -> None:
    """Let a weight rise at both ends of an axis, in place."""
    length = weight.shape[axis]
    if feather >= length:
        return
    for step in range(feather):
        weight.narrow(axis, step, 1).mul_((step + 1) / feather)
        weight.narrow(axis, length - 1 - step, 1).mul_((step + 1) / feather)


def three_passes(
    x: Tensor,
    function: Callable[[Tensor], Tensor],
    tile_x: int,
    tile_y: int,
    *,
    overlap: int,
    scale: float,
    out_channels: int,
    downscale: bool = False,
) -> Tensor:
    """The mean of three tilings, wide, tall and square, so that no seam is in the same place twice."""
    total: Tensor | None = None
    for tile in ((tile_y * 2, tile_x // 2), (tile_y // 2, tile_x * 2), (tile_y, tile_x)):
        done = tiled_scale_multidim(
            x, function, tile, overlap=overlap, scale=scale, out_channels=out_channels, downscale=downscale
        )
        total = done if total is None else total.add_(done)
    assert total is not None  # noqa: S101 - the tuple above is not empty
    return total.div_(3)
