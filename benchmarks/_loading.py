"""What is measured in a process of its own: loading a file, changing models and LoRAs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from torch import nn

from benchmarks._full_size import private
from limner.memory import MemoryManager
from limner.models.load import load_checkpoint, load_diffusion_model
from limner.models.lora import load_lora
from limner.models.model import Model
from limner.settings import Settings, Size

UNET = "model.diffusion_model."
PAGE = 4096


def in_a_process(what: str, *arguments: object) -> dict[str, Any]:
    """What one of the functions below finds. Raises CalledProcessError, its errors are shown."""
    command = [sys.executable, "-m", "benchmarks._loading", what, *map(str, arguments)]
    found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found


def load(path: str, way: str, form: str, alone: str) -> dict[str, Any]:
    """Load a file by Limner or by `load_file` and a copy.

    form: weights in the dtype that is computed in, or as in the file, every page of them seen once. alone: it holds a
    diffusion model and nothing else.
    """
    memory = MemoryManager(Settings(force_fp16=True) if form == "file" else Settings())
    dtype = torch.float16 if form == "file" else memory.unet_precision().storage
    start, busy = perf_counter(), process_time()
    with ExitStack() as stack:
        if way == "limner":
            parts = [load_diffusion_model(path, memory)] if alone else load_checkpoint(path, memory)
            networks = [stack.enter_context(part.loaded()) for part in parts if part is not None]
            tensors: list[torch.Tensor] = [one for network in networks for one in network.parameters()]
        else:
            tensors = copied(path, "", dtype)
        for one in tensors:
            seen(one)
        return {
            "seconds": perf_counter() - start,
            "cpu": process_time() - busy,
            "peak": highest(),
            "private": private_now(),
            "kept": sum(one.nbytes for one in tensors),
        }


def copied(path: str, prefix: str, dtype: torch.dtype | None) -> list[torch.Tensor]:
    """A file's tensors below a prefix by safetensors' own means, each copied in a dtype."""
    from safetensors.torch import load_file

    found = load_file(path)
    return [one.to(dtype, copy=True) for name, one in found.items() if name.startswith(prefix)]


def models(first: str, second: str, room: str) -> dict[str, Any]:
    """Change between the diffusion models of two files, with room for both or for one."""
    plain = MemoryManager(Settings())
    model = load_checkpoint(first, plain).model
    storage = model.memory.unet_precision().storage
    cap = int(1.25 * model.source.nbytes(storage)) + private_now()
    memory = plain if room == "both" else MemoryManager(Settings(max_ram=Size(cap)))
    both = [load_checkpoint(path, memory).model for path in (first, second)]
    for one in both:
        enter(one)
    seconds = median([enter(both[number % 2]) for number in range(4)])
    memory.unload_all()
    start = perf_counter()
    copied(second, UNET, storage)
    return {"seconds": seconds, "reference": perf_counter() - start}


def loras(path: str, *files: str) -> dict[str, Any]:
    """Change the LoRA of a model that stays loaded. arithmetic: seconds of the products and sums alone."""
    memory = MemoryManager(Settings())
    plain = load_checkpoint(path, memory).model
    changed = [load_lora(file, plain, None, 1.0, 1.0)[0] for file in files]
    both = [one for one in changed if one is not None]
    for one in both:
        enter(one)
    seconds = median([enter(both[number % 2]) for number in range(4)])
    source = both[0].source
    keys = [key for key in source.patches if key.startswith(source.prefix)]
    start = perf_counter()
    for key in keys:
        source.patched(key.removeprefix(source.prefix))
    arithmetic = perf_counter() - start
    memory.unload_all()
    return {"seconds": seconds, "arithmetic": arithmetic, "anew": enter(both[0]), "modules": len(keys)}


def enter(model: Model) -> float:
    """Seconds until a model can be computed with."""
    start = perf_counter()
    with model.loaded(working=64 << 20):
        return perf_counter() - start


def seen(tensor: torch.Tensor | nn.Parameter) -> None:
    """Look at each page of a tensor."""
    tensor.detach().reshape(-1).view(torch.uint8)[::PAGE].max()


def private_now() -> int:
    """Bytes of this process that belong to no file."""
    return private(os.getpid())


def highest() -> int:
    """The most bytes of this process that were ever resident, file pages among them."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    measures: dict[str, Callable[..., dict[str, Any]]] = {"load": load, "models": models, "loras": loras}
    print(json.dumps(measures[sys.argv[1]](*sys.argv[2:])))
