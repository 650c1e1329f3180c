"""limner doctor: whether everything needed is there, and what to do where it is not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from limner import __version__
from limner.errors import LimnerError
from limner.settings import Settings

if TYPE_CHECKING:
    from limner.memory import MemoryManager
    from limner.store import Store

GIB = 1024**3
LITTLE_DISK_GIB = 2
LITTLE_RAM_GIB = 1


def doctor(settings: Settings) -> Iterator[str]:
    """Check what Limner needs and say what is wrong and what to do.

    Devices and what they compute in, memory and its limits, folders, the front end, the vocabulary, the queue.
    """
    yield f"limner {__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield from _libraries()
    yield from _devices(settings)
    yield from _front_end()
    yield from _folders(settings)


def _libraries() -> Iterator[str]:
    installed = {found.name.lower(): found.version for found in importlib.metadata.distributions()}
    for name in ("torch", "safetensors", "aiohttp", "sqlalchemy", "tokenizers", "torchsde"):
        if name in installed:
            yield f"  ok    {name} {installed[name]}"
        else:
            yield f"  WRONG {name} is not installed. Run `pip install limner` again in this environment ({sys.prefix})."


def _devices(settings: Settings) -> Iterator[str]:
    from limner.memory import MemoryManager, backends

    manager = MemoryManager(settings)
    device = manager.device
    backend = manager.backend(device)
    able = backend.capabilities(device)
    dtype = "bfloat16" if able.bf16 else "float16" if able.fp16 else "float32"
    free, total = backend.free(device) / GIB, backend.total(device) / GIB
    unified = ", in the computer's own memory" if device.type != "cpu" and backend.is_unified(device) else ""
    name = backend.name(device)
    yield f"  ok    computes on {device} ({name}), fastest in {dtype}, {free:.1f} of {total:.1f} GB free{unified}"
    if device.type == "cpu":
        yield f"  ok    {os.cpu_count()} CPU cores; no accelerator was found, so large models are slow"
    for kind in () if settings.cpu else backends.accelerators():
        others = [f"{kind.kind}:{number}" for number in range(kind.count())]
        idle = ", ".join(one for one in others if one != str(device))
        if idle:
            yield f"  ok    {idle}: not used; choose with --default-device"
    yield from memory_lines(manager)


def memory_lines(manager: MemoryManager) -> Iterator[str]:
    """What of the memory is used: limits, and how weights that do not stay on the device get there."""
    import torch

    from limner.memory import cgroups
    from limner.memory.manager import STREAMS
    from limner.memory.pinned import PinnedMemory

    device, cpu = manager.device, torch.device("cpu")
    settings, backend = manager.settings, manager.backend(device)
    free = manager.backend(cpu).free(cpu) / GIB
    limit = cgroups.limit()
    group = "" if limit is None else f"; its control group may have {limit / GIB:.1f} GB"
    if free < LITTLE_RAM_GIB:
        yield f"  WRONG RAM: {free:.1f} GB are free{group}. Close other programs, or raise the group's limit."
    else:
        yield f"  ok    RAM: {free:.1f} GB free{group}; {_cap(manager.cap(cpu), '--max-ram')}"
    if device.type == "cpu":
        return
    yield f"  ok    memory of {device}: {_cap(manager.cap(device), '--max-vram')}"
    streamed = not settings.disable_async_offload and backend.stream(device) is not None
    count = max(1, STREAMS if settings.async_offload is None else settings.async_offload)
    way = f"ahead (streams: {count})" if streamed else "in order with the computation"
    pinned = PinnedMemory.of(backend.pinning(), settings, backend.is_unified(device)).budget
    where = (
        f"up to {pinned / GIB:.1f} GB of RAM is page-locked for it" if pinned > 0 else "no RAM is page-locked for it"
    )
    yield f"  ok    weights that do not fit are copied {way}; {where}"


def _cap(nbytes: int | None, flag: str) -> str:
    return f"no limit of its own ({flag})" if nbytes is None else f"at most {nbytes / GIB:.1f} GB are used ({flag})"


def _front_end() -> Iterator[str]:
    spec = importlib.util.find_spec("comfyui_frontend_package")
    if spec is None:
        yield "  WRONG the web front end is missing. Run `pip install comfyui-frontend-package`."
    else:
        yield f"  ok    web front end {importlib.metadata.version('comfyui-frontend-package')}"
    if importlib.util.find_spec("clip") is None:
        yield "  WRONG the CLIP vocabulary is missing. Run `pip install --no-deps openai-clip==1.0.1`."


def _folders(settings: Settings) -> Iterator[str]:
    from limner.store import Store

    try:
        store = Store.open(settings, owned=False)
    except LimnerError as error:
        yield f"  WRONG {error}"
        return
    try:
        yield from _places(store)
    finally:
        store.close()


def _places(store: Store) -> Iterator[str]:
    for kind in ("input", "output", "temp", "user"):
        root = store.files.root(kind)
        existing = next(place for place in (root, *root.parents) if place.exists())
        free = shutil.disk_usage(existing).free / GIB
        if not os.access(existing, os.W_OK):
            yield f"  WRONG {kind}: {root} cannot be written. Choose another with --{kind}-directory."
        elif free < LITTLE_DISK_GIB:
            yield f"  WRONG {kind}: {root} has {free:.1f} GB of disk left."
        else:
            yield f"  ok    {kind}: {root}"
    count = len(store.folders.list("checkpoints"))
    roots = ", ".join(str(root) for root in store.folders.roots("checkpoints"))
    yield f"  ok    {count} checkpoint{'s' * (count != 1)} in {roots}"
