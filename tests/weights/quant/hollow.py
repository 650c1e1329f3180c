"""A checkpoint of any size that takes no disk, and how much memory quantizing it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from math import prod
from pathlib import Path

COLUMNS = 16384
RUN = """
import resource, sys
from limner.cli import main
status = main(sys.argv[1:])
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
sys.exit(status)
"""


def hollow(path: Path, nbytes: int) -> Path:
    """A bfloat16 file of so many bytes of zeros as two tensors, one of them nearly all of it."""
    header: dict[str, object] = {}
    end = 0
    for place, rows in enumerate((nbytes // 2 // COLUMNS - 64, 64)):
        shape = (rows, COLUMNS)
        begin, end = end, end + 2 * prod(shape)
        name = f"model.diffusion_model.blocks.{place}.a.weight"
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def peak(source: Path, target: Path, layout: str, environment: Mapping[str, str] | None = None) -> int:
    """The most resident bytes of a process that quantizes a file, with torch and the files' pages that it touches."""
    command = [sys.executable, "-c", RUN, "quantize", str(source), str(target), "--format", layout, "--overwrite"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    return int(told.rsplit("PEAK ", 1)[1])
