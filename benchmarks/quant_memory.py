"""How much memory does quantizing take?   budget: 2 GB for a file of any size

python -m benchmarks.quant_memory [GIGABYTES]: a bfloat16 file of two tensors, one of which is nearly all of it. Its
zeros take no disk. The peak is that of the process, with torch, and with the pages of both files that it touches.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from math import prod
from pathlib import Path
from time import perf_counter

from benchmarks import report

GIGABYTE = 1 << 30
COLUMNS = 16384
LAYOUTS = ("int8_rowwise", "float8_e4m3fn", "nf4")
RUN = """
import resource, sys
from limner.cli import main
status = main(sys.argv[1:])
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
sys.exit(status)
"""


def hollow(path: Path, nbytes: int) -> Path:
    """A file of so many bytes of zeros."""
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


def main() -> int:
    """Each layout in a process of its own; returns 1 where one takes too much."""
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 4.0
    worst = 0
    with tempfile.TemporaryDirectory() as folder:
        source, target = hollow(Path(folder) / "in.safetensors", int(gigabytes * GIGABYTE)), Path(folder) / "out.sft"
        for layout in LAYOUTS:
            start = perf_counter()
            command = [sys.executable, "-c", RUN, "quantize", str(source), str(target), "--format", layout]
            told = subprocess.run([*command, "--overwrite"], capture_output=True, text=True, check=True).stdout
            peak = int(told.rsplit("PEAK ", 1)[1])
            worst = max(worst, peak)
            report("quant_memory", layout=layout, gigabytes=gigabytes, seconds=round(perf_counter() - start, 1),
                   value=round(peak / GIGABYTE, 3), budget=2.0)  # fmt: skip
    return int(worst > 2 * GIGABYTE)


if __name__ == "__main__":
    sys.exit(main())
