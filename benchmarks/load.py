"""How long does a 2.1 GB float16 checkpoint take to load, and how much memory at its peak?

budget: peak resident memory under 1.3 times the bytes that must be resident, which are the weights in the dtype they
are computed in plus what the process had before. The reference is safetensors' own `load_file` of the whole file, cast
to the same dtype, in the same run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

import psutil
import torch

from benchmarks import report

LIMIT = 1.3


def write_checkpoint(path: Path) -> None:
    """A Stable Diffusion 1.5 checkpoint at full size, random float16 weights."""
    from safetensors.torch import save_file

    from limner.models.text.clip import CLIPText, CLIPTextConfig
    from limner.models.unet import UNet, UNetConfig
    from limner.models.vae.kl import AutoencoderKL, KLConfig

    with torch.device("meta"):
        parts = {
            "model.diffusion_model.": UNet(UNetConfig()),
            "first_stage_model.": AutoencoderKL(KLConfig()),
            "cond_stage_model.transformer.": CLIPText(CLIPTextConfig()),
        }
    noise = torch.randn(1 << 20).half() * 0.02
    tensors = {}
    for prefix, network in parts.items():
        for name, parameter in network.state_dict().items():
            count = parameter.numel()
            tensors[prefix + name] = noise.repeat(count // len(noise) + 1)[:count].reshape(parameter.shape).clone()
    save_file(tensors, path)


def peak_rss() -> int:
    """This process's peak resident memory in bytes, since it was started (ru_maxrss also counts the parent's)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def measure(path: Path, way: str) -> dict[str, float]:
    """Load the file in this process by one of the two ways, and say time and peak."""
    from limner.memory.manager import MemoryManager
    from limner.settings import Settings

    dtype = MemoryManager(Settings()).unet_precision().storage
    before = psutil.Process().memory_info().rss
    start = perf_counter()
    if way == "reference":
        from safetensors.torch import load_file

        tensors = [tensor.to(dtype) for tensor in load_file(path).values()]
        resident = sum(tensor.nbytes for tensor in tensors)
    else:
        resident = load_all(path)
    return {"seconds": perf_counter() - start, "peak": peak_rss(), "before": before, "resident": resident}


def load_all(path: Path) -> int:
    """Load every part of a checkpoint as a prompt would, place it, and return the bytes that are then resident."""
    from limner.memory.manager import MemoryManager
    from limner.models.load import load_checkpoint
    from limner.settings import Settings

    memory = MemoryManager(Settings())
    parts = load_checkpoint(path, memory)
    with ExitStack() as stack:
        networks = [stack.enter_context(part.loaded()) for part in parts]
        return sum(parameter.nbytes for network in networks for parameter in network.parameters())


def main() -> None:
    """Measure each way in a fresh process and report."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.safetensors"
        write_checkpoint(path)
        found = {}
        for way in ("reference", "limner"):
            command = [sys.executable, "-m", "benchmarks.load", str(path), way]
            reply = subprocess.run(command, capture_output=True, text=True, check=True)
            found[way] = json.loads(reply.stdout)
        ours = found["limner"]
        report(
            "load a 2.1 GB checkpoint",
            seconds=round(ours["seconds"], 2),
            ratio=round(found["reference"]["seconds"] / ours["seconds"], 2),
            reference="safetensors load_file, cast to the same dtype",
        )
        for way, one in found.items():
            report("peak memory of loading", way=way, gb=round(one["peak"] / 1e9, 2))
        must = ours["resident"] + ours["before"]
        report(
            "peak memory of loading", value=round(ours["peak"] / must, 2), budget=LIMIT, gb=round(ours["peak"] / 1e9, 2)
        )


if __name__ == "__main__":
    main()
