"""Surfaces: closed, facing outwards, as large as what they enclose; and their files, read back byte by byte."""

import json
import struct

import numpy as np
import pytest
import torch

from limner.nodes import mesh
from limner.nodes.surfaces import Mesh, Voxel, cubes, surface_net
from tests.nodes.make import run_in


def ball(size=24, radius=8.0):
    axis = torch.arange(size) - (size - 1) / 2
    distance = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2).sqrt()
    return (radius - distance).numpy()


def volume(vertices, faces):
    """Gauss: a sixth of the sum of triple products; positive when the faces look outwards."""
    a, b, c = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def open_edges(faces):
    """Directed edges without one that runs back."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forward, count = np.unique(edges, axis=0, return_counts=True)
    backward, count_back = np.unique(edges[:, ::-1], axis=0, return_counts=True)
    return 0 if np.array_equal(forward, backward) and np.array_equal(count, count_back) else 1


@pytest.mark.parametrize("make", [cubes, surface_net])
def test_a_surface_is_closed_and_faces_outwards(make):
    vertices, faces = make(ball(), 0.0)
    assert open_edges(faces) == 0
    cell = 2 / 24
    assert volume(vertices, faces) / cell**3 == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.03)


def test_a_net_lies_on_the_sphere():
    vertices, _ = surface_net(ball(), 0.0)
    assert np.linalg.norm(vertices, axis=1) == pytest.approx(8 * 2 / 24, rel=0.02)


def test_one_cell_is_one_cube():
    grid = np.zeros((4, 4, 4))
    grid[0, 1, 3] = 1  # z 0, y 1, x 3
    vertices, faces = cubes(grid, 0.5)
    assert len(vertices) == 8
    assert len(faces) == 12
    assert volume(vertices, faces) == pytest.approx(0.5**3)
    assert vertices.min(0).tolist() == [0.5, -0.5, -1.0]
    assert vertices.max(0).tolist() == [1.0, 0.0, -0.5]


@pytest.mark.parametrize("make", [cubes, surface_net])
def test_a_full_grid_is_closed_at_its_border_and_an_empty_one_has_no_surface(make):
    vertices, faces = make(np.ones((2, 3, 4)), 0.5)
    assert open_edges(faces) == 0
    assert volume(vertices, faces) > 0
    assert [len(part) for part in make(np.zeros((2, 3, 4)), 0.5)] == [0, 0]


def test_a_threshold_chooses_the_surface():
    small = mesh.meshed(Voxel(torch.from_numpy(ball())[None]), "surface net", 1.0)
    large = mesh.meshed(Voxel(torch.from_numpy(ball())[None]), "surface net", -1.0)
    radius = [one.vertices.norm(dim=-1).mean().item() * 12 for one in (small, large)]
    assert radius == pytest.approx([7, 9], abs=0.1)


def test_meshes_of_a_batch_are_padded_to_the_longest():
    grids = torch.zeros(2, 3, 3, 3)
    grids[0, 1, 1, 1] = grids[1, 0, 0, 0] = grids[1, 2, 2, 2] = 1
    made = mesh.blocky(Voxel(grids), 0.6)
    assert made.vertices.shape == (2, 16, 3)
    assert made.faces.shape == (2, 24, 3)
    assert not made.faces[0, 12:].any()
    assert volume(made.vertices[0].numpy(), made.faces[0].numpy()) == pytest.approx((2 / 3) ** 3)


def read_glb(data):
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON"
    document, rest = json.loads(data[20 : 20 + size]), data[20 + size :]
    if rest:
        assert struct.unpack("<I4s", rest[:8]) == (len(rest) - 8, b"BIN\0")
    return document, rest[8:]


@pytest.mark.parametrize("metadata", [True, False])
def test_a_glb_holds_the_surface_and_the_prompt(tmp_path, metadata):  # rules H2, F5
    run = run_in(tmp_path, disable_metadata=not metadata)
    vertices = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, -3]]])
    faces = torch.tensor([[[0, 1, 2], [0, 2, 3], [0, 3, 1]]])
    texts = {"prompt": {"1": {}}, "extra_pnginfo": {"workflow": {"n": 1}}}
    (entry,) = mesh.save_glb(run, Mesh(vertices, faces), **texts).ui["3d"]
    assert entry == {"filename": "ComfyUI_00001_.glb", "subfolder": "mesh", "type": "output"}
    document, binary = read_glb((tmp_path / "output" / "mesh" / entry["filename"]).read_bytes())
    carried = {"prompt": {"1": {}}, "workflow": {"n": 1}}
    assert document["asset"].get("extras") == (carried if metadata else None)
    assert document["asset"]["version"] == "2.0"
    places, corners = document["bufferViews"]
    found = np.frombuffer(binary, "<f4", places["byteLength"] // 4, places["byteOffset"]).reshape(-1, 3)
    assert found.tolist() == vertices[0].tolist()
    index = np.frombuffer(binary, "<u4", corners["byteLength"] // 4, corners["byteOffset"]).reshape(-1, 3)
    assert index.tolist() == faces[0].tolist()
    assert document["accessors"][0]["min"] == [0, 0, -3]
    assert document["accessors"][0]["max"] == [1, 2, 0]
    assert document["buffers"][0]["byteLength"] <= len(binary)


def test_an_empty_surface_is_still_a_file(tmp_path):
    run = run_in(tmp_path)
    empty = Mesh(torch.zeros(1, 0, 3), torch.zeros(1, 0, 3, dtype=torch.long))
    (entry,) = mesh.save_glb(run, empty).ui["3d"]
    document, _ = read_glb((tmp_path / "output" / "mesh" / entry["filename"]).read_bytes())
    assert document["scenes"] == [{"nodes": []}]
