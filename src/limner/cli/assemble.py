"""Putting the packages together: one engine with its store, its nodes and its memory manager."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

from limner.compat.setup import Compat
from limner.engine import Engine, NodeRegistry
from limner.settings import Settings
from limner.store import Store

if TYPE_CHECKING:
    from limner.memory.manager import MemoryManager


@dataclass(frozen=True)
class Parts:
    """What one process is made of."""

    settings: Settings
    store: Store
    registry: NodeRegistry
    engine: Engine
    compat: Compat
    memory: Callable[[], MemoryManager]


@contextmanager
def assembled(settings: Settings, *, owned: bool = True) -> Iterator[Parts]:
    """The parts, and the store closed at the end. The engine is not started.

    owned: False for a command that works beside a server: its queue is in memory and the temp folder is left alone.
    """
    prepare_environment(settings, os.environ)
    store = Store.open(settings, owned=owned)
    try:
        registry = NodeRegistry.open()
        memory = Once(lambda: make_memory(settings))
        # A copy without sources: what packs see as built-in is looked up without asking packs.
        compat = Compat(settings, store, copy(registry), memory)
        try:
            registry.add_source(compat.packs.source)
            engine = Engine(settings, store, registry, memory=memory, describe_memory=describe_memory)
            compat.host.engine = engine
            memory.then(engine.use_memory)
            yield Parts(settings, store, registry, engine, compat, memory)
        finally:
            compat.close()
    finally:
        store.close()


class Once:
    """Makes the memory manager when it is first asked for, whoever asks: a node, or a pack without one."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None
        self._tell: list[Callable[[Any], None]] = []
        self._lock = Lock()

    def then(self, tell: Callable[[Any], None]) -> None:
        """Call `tell` with it once it is made."""
        self._tell.append(tell)

    def __call__(self) -> Any:
        """The manager."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
                for tell in self._tell:
                    tell(self._made)
            return self._made


def describe_memory(manager: Any, results: Mapping[str, int], running: bool) -> dict[str, Any]:
    """What is where, as `limner.memory.report` has it; torch is there once there is a manager."""
    from limner.memory.report import describe

    return describe(manager, results, running)


def make_memory(settings: Settings) -> MemoryManager:
    """The memory manager; torch is imported here, when the first node that needs it runs."""
    import torch

    from limner.memory.manager import MemoryManager

    if settings.deterministic:
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
    return MemoryManager(settings)


def prepare_environment(settings: Settings, environment: Any) -> None:
    """Set what libraries read from the environment, before they are imported."""
    # Threads that spin while they wait for each other take the processor from the one they wait for: with two busy
    # programs on two cores a small picture took 62 s, and 9.5 s when waiting threads sleep.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if settings.cuda_device is not None:
        for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
            environment[name] = str(settings.cuda_device)
    if settings.cuda_malloc or settings.disable_cuda_malloc:
        chosen = "cudaMallocAsync" if settings.cuda_malloc else "native"
        others = [
            one
            for one in environment.get("PYTORCH_CUDA_ALLOC_CONF", "").split(",")
            if one and not one.startswith("backend:")
        ]
        environment["PYTORCH_CUDA_ALLOC_CONF"] = ",".join([*others, f"backend:{chosen}"])
    if settings.oneapi_device_selector is not None:
        environment["ONEAPI_DEVICE_SELECTOR"] = settings.oneapi_device_selector
    if settings.deterministic:
        environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
