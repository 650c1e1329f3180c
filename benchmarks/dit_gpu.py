"""How long is a picture on a GPU?   bfloat16, random weights at full depth, eager and compiled, against diffusers.

Flux at 1024×1024 in 28 steps, SDXL at 1024×1024 in 30: as many passes of the network as there are steps, of which the
time is nearly all. budget: no slower than diffusers' own class in either mode; compiled Flux at most 4.3 s, the public
figure of an H100. Without a GPU nothing is measured; `--tiny` runs the same code on a CPU, to see that it works.
"""

from __future__ import annotations

import gc
import sys
from time import perf_counter

import torch
from torch import nn

from benchmarks import report
from benchmarks._dit import FAMILIES, Call, Size

RUNS = {
    "flux": (Size(heads=24, blocks=(19, 38), side=128, tokens=512), 28, 4.3),
    "sdxl": (Size(heads=4, blocks=(2, 10), side=128, tokens=77, batch=2), 30, None),
}
TINY = {name: (Size(heads=4, blocks=(1, 1), side=16, tokens=8), 2, None) for name in RUNS}


def seconds(call: Call, network: nn.Module, steps: int) -> float:
    """The time of one picture, after one that warms up."""
    with torch.inference_mode():
        for _ in range(2):
            start = perf_counter()
            for _ in range(steps):
                call(network)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
    return perf_counter() - start


def main(arguments: list[str]) -> None:
    """Measure and report."""
    tiny = "--tiny" in arguments
    if not tiny and not torch.cuda.is_available():
        report("picture on a GPU", note="no CUDA device here; nothing measured")
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    for family, (size, steps, most) in (TINY if tiny else RUNS).items():
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            pair = FAMILIES[family](size, torch.bfloat16)
        for mode in ("eager", "compiled"):
            sides = {"ours": (pair.call_ours, pair.ours), "diffusers": (pair.call_theirs, pair.theirs)}
            if mode == "compiled":
                sides = {name: (call, torch.compile(network)) for name, (call, network) in sides.items()}  # type: ignore[misc]
            times = {name: seconds(call, network, steps) for name, (call, network) in sides.items()}
            report(
                "picture on a GPU", family=family, mode=mode, device=device, steps=steps,
                seconds=round(times["ours"], 3), diffusers=round(times["diffusers"], 3),
                value=round(times["ours"] / times["diffusers"], 3), budget=1.0,
            )  # fmt: skip
            if most is not None and mode == "compiled":
                report("picture of compiled Flux", device=device, value=round(times["ours"], 3), budget=most)
        del pair, sides
        gc.collect()


if __name__ == "__main__":
    main(sys.argv[1:])
