"""3-D: surfaces of solid grids, and their files."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from limner.errors import BadInput
from limner.graph import Choice, Float, Run, Ui, node
from limner.nodes.kinds import MESH, VOXEL
from limner.nodes.saving import Extra, Prompt, carried_values, save_files
from limner.nodes.surfaces import Mesh, cubes, surface_net
from limner.store.meshes import encode_glb

Threshold = Annotated[float, Float(min=-1.0, max=1.0, step=0.01)]

mesh_node = partial(node, category="3d", python_module="comfy_extras.nodes_hunyuan3d")


@mesh_node("VoxelToMeshBasic", title="VoxelToMeshBasic")
def blocky(voxel: VOXEL, threshold: Threshold = 0.6) -> MESH:
    """The outside of all cells above the threshold, as blocks."""
    return _meshed(voxel.data, "basic", threshold)


@mesh_node("VoxelToMesh", title="VoxelToMesh")
def meshed(
    voxel: VOXEL, algorithm: Annotated[str, Choice(("surface net", "basic"))], threshold: Threshold = 0.6
) -> MESH:
    """The surface at which a grid passes the threshold: smooth as a net, or as blocks."""
    return _meshed(voxel.data, algorithm, threshold)


def _meshed(data: Tensor, algorithm: str, threshold: float) -> Mesh:
    """The shorter meshes of a batch end with corners and triangles of no extent."""
    make = surface_net if algorithm == "surface net" else cubes
    made = [make(grid.float().cpu().numpy(), threshold) for grid in data]
    vertices, faces = (
        [torch.from_numpy(np.ascontiguousarray(one)) for one in part] for part in zip(*made, strict=True)
    )
    return Mesh(pad_sequence(vertices, batch_first=True), pad_sequence(faces, batch_first=True))


@mesh_node("SaveGLB", title="SaveGLB", output_node=True)
def save_glb(
    run: Run, mesh: MESH, filename_prefix: str = "mesh/ComfyUI", prompt: Prompt = None, extra_pnginfo: Extra = None
) -> Ui:
    """Surfaces as GLB in the output folder, with prompt and workflow inside."""
    if mesh.vertices.ndim != 3 or mesh.faces.ndim != 3:
        raise BadInput("A mesh needs vertices (batch, n, 3) and faces (batch, m, 3).")
    extras = carried_values(run, prompt, extra_pnginfo)
    files = (
        encode_glb(vertices.float().cpu().numpy(), faces.cpu().numpy(), extras)
        for vertices, faces in zip(mesh.vertices, mesh.faces, strict=True)
    )
    return Ui({"3d": save_files(run, "output", filename_prefix, "glb", files)})
