"""A server over real folders that hold one of everything, asked over plain HTTP."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

from PIL import Image

NODES_PACK = "my pack"


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def picture(mode: str = "RGBA", size: tuple[int, int] = (4, 3), form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 7).save(buffer, form)
    return buffer.getvalue()


def safetensors(**metadata: str) -> bytes:
    header = json.dumps({"__metadata__": metadata} if metadata else {}).encode()
    return struct.pack("<Q", len(header)) + header


def furnish(base: Path) -> None:
    """One of everything that routes can show."""
    put(base / "output" / "a.png", picture())
    put(base / "output" / "sub" / "b.png", picture("RGB"))
    put(base / "output" / "page.html", "<script>alert(1)</script>")
    put(base / "input" / "in.png", picture())
    put(base / "temp" / "keep", "")
    put(base / "models" / "loras" / "a.safetensors", safetensors(x="1"))
    put(base / "models" / "loras" / "a.png", picture())
    put(base / "models" / "loras" / "bare.safetensors", safetensors())
    put(base / "models" / "loras" / "b.ckpt", b"x")
    put(base / "models" / "embeddings" / "style.pt", b"x")
    put(base / "user" / "default" / "workflows" / "w.json", "{}")
    put(base / "user" / "default" / "deep" / "er" / "f.txt", "text")
    pack = base / "custom_nodes" / NODES_PACK
    put(pack / "example_workflows" / "first.json", '{"a": 1}')
    put(pack / "locales" / "de" / "main.json", '{"x": [1]}')
    put(pack / "subgraphs" / "s.json", "{}")
