"""How much memory does quantizing take?   budget: 2 GB for a file of any size

python -m benchmarks.quant_memory [GIGABYTES]: a bfloat16 file of two tensors, one of which is nearly all of it. Its
zeros take no disk. The peak is that of the process, with torch, and with the pages of both files that it touches.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from time import perf_counter

from benchmarks import report
from tests.weights.quant.hollow import hollow, peak

GIGABYTE = 1 << 30
LAYOUTS = ("int8_rowwise", "float8_e4m3fn", "nf4")


def main() -> int:
    """Each layout in a process of its own; returns 1 where one takes too much."""
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 4.0
    worst = 0
    with tempfile.TemporaryDirectory() as folder:
        source, target = hollow(Path(folder) / "in.safetensors", int(gigabytes * GIGABYTE)), Path(folder) / "out.sft"
        for layout in LAYOUTS:
            start = perf_counter()
            most = peak(source, target, layout)
            worst = max(worst, most)
            report("quant_memory", layout=layout, gigabytes=gigabytes, seconds=round(perf_counter() - start, 1),
                   value=round(most / GIGABYTE, 3), budget=2.0)  # fmt: skip
    return int(worst > 2 * GIGABYTE)


if __name__ == "__main__":
    sys.exit(main())
