"""How much memory and time does a picture of each family take?   Reduced width, from files to a PNG, a process each.

Every entry of `tests.families.small` runs the workflow of its end-to-end test on the CPU, by a `limner serve` that runs
nothing else: from a single file, from split files, and that again with another prompt, when all is loaded. Printed are
the peak of the server's resident memory and the seconds of the three; the first also imports torch and the nodes.

budget: nothing but the interpreter and torch is large here, so no family takes 25 MB more than Stable Diffusion 1, the
first row; 250 MB those whose nodes bring pictures to a megapixel before they encode them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from time import perf_counter

from benchmarks import report
from tests.families.make import Small, from_checkpoint, from_split_files, workflow, write, write_shared
from tests.families.serve import BFLOAT16, FLOAT32, picture
from tests.families.small import SMALL
from tests.serving import serving

MORE_MB = 25.0
MEGAPIXEL_MB = 250.0
MEGAPIXEL = ("qwen_image_edit", "qwen_image_edit_plus")
DTYPES = {"float32": FLOAT32, "bfloat16": BFLOAT16}


def measured(base: Path, small: Small, flags: tuple[str, ...]) -> tuple[float, list[float]]:
    """The peak of resident memory in MB, and the seconds of three pictures."""
    split = workflow(small, from_split_files), workflow(small, from_split_files, "dog dog")
    seconds = []
    with serving(base, *flags) as server:
        for prompt in (workflow(small, from_checkpoint), *split):
            start = perf_counter()
            picture(server, prompt)
            seconds.append(perf_counter() - start)
        status = Path(f"/proc/{server.process.pid}/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kilobytes) * 1024 / 1e6, seconds


def main() -> None:
    """Measure and report: all families, or those that are named."""
    first: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_shared(base)
        for small in SMALL:
            write(small, base / "models")
        for small in SMALL:
            if sys.argv[1:] and small.name not in (SMALL[0].name, *sys.argv[1:]):
                continue
            for dtype, flags in DTYPES.items():
                peak, seconds = measured(base, small, flags)
                more = peak - first.setdefault(dtype, peak)
                times = dict(zip(("first_s", "split_s", "again_s"), (round(one, 3) for one in seconds), strict=True))
                figures = {"peak_mb": round(peak), **times, "value": round(more)}
                budget = MEGAPIXEL_MB if small.name in MEGAPIXEL else MORE_MB
                report("families", family=small.name, dtype=dtype, **figures, budget=budget)


if __name__ == "__main__":
    main()
