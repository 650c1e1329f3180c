"""Values of 3-D kinds: meshes and voxels as packs make and read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class MESH:
    """A batch of triangle meshes. vertices: (batch, points, 3); faces: (batch, triangles, 3), indices of points."""

    vertices: Any
    faces: Any


@dataclass
class VOXEL:
    """A batch of filled grids. data: (batch, depth, height, width), inside where it is positive."""

    data: Any
