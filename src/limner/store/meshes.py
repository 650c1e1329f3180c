"""Surfaces as bytes: binary glTF 2.0 (Khronos, sections 3 and 4)."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_MAGIC, _JSON, _BINARY = 0x46546C67, 0x4E4F534A, 0x004E4942
_FLOAT, _UINT = 5126, 5125
_VERTICES, _INDICES = 34962, 34963


def encode_glb(
    vertices: np.ndarray[Any, Any], faces: np.ndarray[Any, Any], extras: Mapping[str, Any] | None = None
) -> bytes:
    """A GLB file of one surface: vertices (n, 3), faces (m, 3) counter-clockwise from outside; extras: plain JSON."""
    corners = vertices.astype("<f4").tobytes()
    indices = faces.astype("<u4").tobytes()
    asset: dict[str, Any] = {"version": "2.0", "generator": "Limner"}
    if extras:
        asset["extras"] = dict(extras)
    if len(vertices) == 0 or len(faces) == 0:
        return _container({"asset": asset, "scenes": [{"nodes": []}], "scene": 0}, b"")
    document = {
        "asset": asset,
        "buffers": [{"byteLength": len(corners) + len(indices)}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": len(corners), "target": _VERTICES},
            {"buffer": 0, "byteOffset": len(corners), "byteLength": len(indices), "target": _INDICES},
        ],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": _FLOAT,
                "count": len(vertices),
                "type": "VEC3",
                "min": vertices.astype("<f4").min(axis=0).tolist(),
                "max": vertices.astype("<f4").max(axis=0).tolist(),
            },
            {"bufferView": 1, "componentType": _UINT, "count": int(faces.size), "type": "SCALAR"},
        ],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "mode": 4}]}],
        "nodes": [{"mesh": 0}],
        "scenes": [{"nodes": [0]}],
        "scene": 0,
    }
    return _container(document, corners + indices)


def _container(document: Mapping[str, Any], binary: bytes) -> bytes:
    text = json.dumps(document, separators=(",", ":")).encode()
    chunks = _chunk(_JSON, text, b" ") + (_chunk(_BINARY, binary, b"\0") if binary else b"")
    return struct.pack("<III", _MAGIC, 2, 12 + len(chunks)) + chunks


def _chunk(kind: int, data: bytes, filler: bytes) -> bytes:
    data += filler * (-len(data) % 4)
    return struct.pack("<II", len(data), kind) + data
