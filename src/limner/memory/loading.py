"""What packs replace of memory: the core calls these through this module, so that what they put here is used.

The names and arguments are those of ComfyUI's `model_management`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import nn

from limner.memory import backends, casting, devices
from limner.memory.settings import DefaultSettings


class Enterable(Protocol):
    """A model that is in memory inside a `with` block and stays there while there is room."""

    def loaded(self, working: int = 0, least: int | None = None) -> AbstractContextManager[Any]:
        """On its device for as long as the block lasts, with `working` bytes to spare, or `least` where that is all."""


CHOOSERS: dict[str, Callable[[], torch.device]] = {}
"""What packs have put in the place of functions that choose a device, by name: `get_torch_device`."""


MANAGERS: WeakValueDictionary[int, Any] = WeakValueDictionary()
"""The memory managers there are, by the order in which they were made: a process that serves has one."""


RESERVED: dict[str, int] = {}
"""Bytes of a device that packs have other programs left, by the name they know: `EXTRA_RESERVED_VRAM`."""


def newest() -> Any:
    """The newest memory manager; None where there is none."""
    return MANAGERS.get(max(MANAGERS.keys(), default=-1))


def compute_device() -> torch.device:
    """Where the newest manager's networks run; an accelerator, if there is one, where there is no manager."""
    manager = newest()
    return devices.compute_device(DefaultSettings()) if manager is None else manager.own_device


def move(module: nn.Module, device: torch.device | str | None) -> None:
    """Bring a network of someone else's to a device, where other networks make room for it."""
    manager = newest()
    if manager is None or device is None:
        casting.move(module, device)
    else:
        manager.move(module, torch.device(device))


def get_free_memory(dev: torch.device | None = None, torch_free_too: bool = False) -> Any:
    """Bytes that can still be allocated on a device; with torch_free_too a pair with what torch holds unused."""
    device = compute_device() if dev is None else dev
    free = devices.free_memory(device)
    if not torch_free_too:
        return free
    return free, free if device.type == "cpu" else backends.of(device).held(device)


def load_models_gpu(
    models: Sequence[Enterable],
    memory_required: float = 0,
    force_patch_weights: bool = False,
    minimum_memory_required: float | None = None,
    force_full_load: bool = False,
) -> None:
    """Load models, with `memory_required` bytes to spare, or `minimum_memory_required`; they stay while there is room.

    force_full_load: leave nothing to spare, so that as much of the weights as possible is on the device.
    """
    del force_patch_weights
    working = 0 if force_full_load else int(memory_required)
    for model in models:
        # Packs' own models may not know of the least.
        least = {} if minimum_memory_required is None else {"least": min(working, int(minimum_memory_required))}
        with model.loaded(working, **least):
            pass


def soft_empty_cache(force: bool = False) -> None:
    """Give the memory that torch holds unused back to the device."""
    del force
    gc.collect()
    for backend in [one for one in backends.kinds().values() if one.count()]:
        for number in range(backend.count()):
            backend.trim(torch.device(backend.kind, number) if backend.kind != "cpu" else torch.device("cpu"))


_OWN: Callable[..., Any] = load_models_gpu


def replaced_loading() -> Callable[..., Any] | None:
    """What a pack put in the place of `load_models_gpu`, or None where it is the own one."""
    found: Callable[..., Any] = vars(sys.modules[__name__])["load_models_gpu"]
    return None if found is _OWN else found
