"""How long is one step of a large model at full width?   bfloat16, random weights, against diffusers on the same ones.

SDXL whole at 256×256; Flux with two blocks of two streams and four of one, Qwen-Image with two blocks, both at 256×256
pixels. budget: no slower than diffusers, whose module has the same weights; the two take turns, and each is given its
best time, because these machines are busy. Figures with the resident memory of the process.
"""

from __future__ import annotations

import gc
import sys
from time import perf_counter

import psutil
import torch

from benchmarks import report
from benchmarks._dit import FAMILIES, Size

ROUNDS = 4
SIZES = {
    "sdxl": Size(heads=4, blocks=(2, 10), side=32, tokens=77, batch=1),
    "flux": Size(heads=24, blocks=(2, 4), side=32, tokens=128),
    "qwen_image": Size(heads=24, blocks=(1, 1), side=32, tokens=64),
    "sd3": Size(heads=12, blocks=(3, 3), side=32, tokens=154),
}


def main(names: list[str]) -> None:
    """Measure and report."""
    for family in names or SIZES:
        try:
            pair = FAMILIES[family](SIZES[family], torch.bfloat16)
        except ImportError:
            report("step against diffusers", family=family, note="diffusers is not installed")
            continue
        steps = {"ours": (pair.call_ours, pair.ours), "diffusers": (pair.call_theirs, pair.theirs)}
        times = dict.fromkeys(steps, float("inf"))
        with torch.inference_mode():
            for _ in range(ROUNDS):
                for name, (call, network) in steps.items():
                    start = perf_counter()
                    call(network)
                    times[name] = min(times[name], perf_counter() - start)
        report(
            "step against diffusers", family=family, seconds=round(times["ours"], 3),
            diffusers=round(times["diffusers"], 3), value=round(times["ours"] / times["diffusers"], 3), budget=1.0,
            resident_gb=round(psutil.Process().memory_info().rss / 1e9, 2),
        )  # fmt: skip
        del pair, steps
        gc.collect()


if __name__ == "__main__":
    main(sys.argv[1:])
