"""Surfaces of what is solid in a grid, as triangles. (No nodes here.)

Grids are (depth, height, width); corners come out as x, y, z along width, height and depth, -1..1 along the longest
side, and triangles run counter-clockwise seen from outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from torch import Tensor

Array = np.ndarray[Any, Any]
CORNERS = tuple(np.array(corner) for corner in product((0, 1), repeat=3))
EDGES = tuple((a, b) for a, b in product(CORNERS, repeat=2) if (b - a).sum() == 1 and (b >= a).all())
"""The twelve edges of a cube, from lower to upper corner."""


@dataclass
class Voxel:
    """How solid space is: data (batch, depth, height, width)."""

    data: Tensor


@dataclass
class Mesh:
    """Triangles: vertices (batch, n, 3), faces (batch, m, 3), indices of three corners."""

    vertices: Tensor
    faces: Tensor


def cubes(values: Array, level: float) -> tuple[Array, Array]:
    """The outer sides of all cells above `level`, two triangles each: corners (n, 3) and faces (m, 3)."""
    solid = np.pad(values > level, 1)
    quads = []
    for axis in range(3):
        along, across, up = np.eye(3, dtype=np.int64)[[axis, (axis + 1) % 3, (axis + 2) % 3]]
        for step, order in ((1, (0 * up, across, across + up, up)), (-1, (0 * up, up, across + up, across))):
            bare = np.argwhere(solid & ~np.roll(solid, -step, axis))
            start = bare + (along if step == 1 else 0)
            quads.append(np.stack([start + corner for corner in order], axis=1))
    corners, index = np.unique(np.concatenate(quads).reshape(-1, 3), axis=0, return_inverse=True)
    return _finished(corners - 1.0, index.reshape(-1, 4), values.shape)


def surface_net(values: Array, level: float) -> tuple[Array, Array]:
    """A smooth surface where the values pass `level`: one corner in each cube of eight neighbours that it crosses.

    Source: Gibson 1998, "Constrained elastic surface nets", without its relaxation.
    """
    lowest = min(float(values.min(initial=level)), level - 1.0)
    field = np.pad(values.astype(np.float64), 1, constant_values=lowest)
    inside = field > level
    shape = np.array(field.shape) - 1
    count = np.sum([_at(inside, corner, shape) for corner in CORNERS], axis=0, dtype=np.int8)
    crossed = (count > 0) & (count < 8)
    cells = np.argwhere(crossed)
    number = np.full(crossed.shape, -1, np.int64)
    number[crossed] = np.arange(len(cells))
    quads = [_around(inside, number, axis) for axis in range(3)]
    # samples lie in the middle of their cells
    return _finished(cells + _crossings(field, cells, level) - 0.5, np.concatenate(quads), values.shape)


def _at(grid: Array, corner: Array, shape: Array) -> Array:
    return grid[tuple(slice(start, start + size) for start, size in zip(corner, shape, strict=True))]


def _crossings(field: Array, cells: Array, level: float) -> Array:
    """The mean place, within each cell, at which its edges pass the level."""
    total, count = np.zeros((len(cells), 3)), np.zeros((len(cells), 1))
    for low, high in EDGES:
        a, b = field[tuple((cells + low).T)], field[tuple((cells + high).T)]
        passes = ((a > level) != (b > level))[:, None]
        part = np.divide(level - a, b - a, out=np.zeros_like(a), where=a != b)[:, None]
        total += np.where(passes, low + part * (high - low), 0)
        count += passes
    return total / np.maximum(count, 1)


def _around(inside: Array, number: Array, axis: int) -> Array:
    """The four cells around each edge along an axis whose ends lie on different sides, as seen from outside."""
    across, up = np.eye(3, dtype=np.int64)[[(axis + 1) % 3, (axis + 2) % 3]]
    here = inside[tuple(slice(0, -1 if one == axis else None) for one in range(3))]
    there = inside[tuple(slice(1 if one == axis else 0, None) for one in range(3))]
    found = []
    for solid_first, order in ((True, (across + up, up, 0 * up, across)), (False, (across + up, across, 0 * up, up))):
        points = np.argwhere((here != there) & (here == solid_first))
        found.append(np.stack([number[tuple((points - corner).T)] for corner in order], axis=1))
    return np.concatenate(found)


def _finished(corners: Array, quads: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Corners as x, y, z in -1..1 and two triangles a quad; naming the axes backwards turns the quads around."""
    size = np.array(shape, np.float64)
    scaled = (corners - size / 2) / (size.max() / 2)
    triangles = np.concatenate((quads[:, [0, 2, 1]], quads[:, [0, 3, 2]]))
    return scaled[:, ::-1].astype(np.float32), triangles.astype(np.int64)
