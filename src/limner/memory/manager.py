"""What is loaded where: networks are loaded when entered, kept while there is room, and unloaded the oldest first."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from threading import RLock
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

from limner.errors import OutOfMemory
from limner.memory import casting, devices, dtypes, loading
from limner.memory.dtypes import Precision
from limner.memory.policy import Resident, to_evict
from limner.memory.settings import DefaultSettings, MemorySettings

_log = logging.getLogger(__name__)

P = TypeVar("P")


class Loadable(Protocol[P]):
    """What can be loaded: `limner.weights.NetworkSource` is one; P is the type of its patches."""

    @property
    def name(self) -> str:
        """For messages and to tell the networks of one file apart."""

    @property
    def identity(self) -> str:
        """Equal for equal unpatched weights."""

    @property
    def patches(self) -> P:
        """What changes the weights."""

    @property
    def patches_digest(self) -> str:
        """Equal for equal patches."""

    def nbytes(self, dtype: torch.dtype | None) -> int:
        """Bytes of the weights in a dtype."""

    def load(self, device: torch.device, dtype: torch.dtype | None, channels_last: bool = False) -> nn.Module:
        """The network with its weights."""

    def update(self, network: nn.Module, loaded: P, device: torch.device, dtype: torch.dtype | None,
               channels_last: bool = False) -> None:  # fmt: skip
        """Turn a network loaded with the patches `loaded` into this one."""


@dataclass(frozen=True)
class _Key:
    name: str
    identity: str
    device: str
    dtype: str
    channels_last: bool


@dataclass
class _Loaded(Generic[P]):
    network: nn.Module
    patches: P
    digest: str
    nbytes: int
    last_used: int
    users: int = 0


class MemoryManager:
    """Keeps loaded networks by weights, dtype and device, re-patches them when their patches changed, makes room.

    One for a process; thread-safe. Which device and dtype a network gets follows the settings and the device.
    """

    def __init__(self, settings: MemorySettings | None = None, device: torch.device | None = None) -> None:
        self.settings: MemorySettings = settings or DefaultSettings()
        self._device = device
        self._loaded: dict[_Key, _Loaded[Any]] = {}
        self._models: WeakSet[Any] = WeakSet()
        self._clock = count()
        self._lock = RLock()
        loading.MANAGERS[1 + max(loading.MANAGERS.keys(), default=-1)] = self

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        chooser = loading.CHOOSERS.get("get_torch_device")
        return self.own_device if chooser is None else chooser()

    @property
    def own_device(self) -> torch.device:
        """Where networks run unless a pack chooses otherwise."""
        if self._device is None:
            self._device = devices.compute_device(self.settings)
        return self._device

    @property
    def vae_device(self) -> torch.device:
        """Where autoencoders run."""
        return torch.device("cpu") if self.settings.cpu_vae else self.device

    def place(self, tensor: Tensor, device: torch.device | None = None) -> Tensor:
        """The tensor on the compute device."""
        return tensor.to(device or self.device)

    def unet_precision(self, supported: Sequence[torch.dtype] = dtypes.UNET_ORDER) -> Precision:
        """Of diffusion models; supported: the family's dtypes in its order."""
        return dtypes.unet_precision(self.settings, devices.capabilities(self.device), supported)

    def vae_precision(self, supported: Sequence[torch.dtype] = dtypes.VAE_ORDER) -> Precision:
        """Of autoencoders."""
        return dtypes.vae_precision(self.settings, devices.capabilities(self.vae_device), supported)

    def text_precision(self) -> Precision:
        """Of text encoders."""
        return dtypes.text_precision(self.settings, devices.capabilities(self.device))

    def channels_last(self, device: torch.device) -> bool:
        """Whether convolutions are kept with their channels last: when asked, and on the CPUs where it is faster.

        Those are the ones that are fast in bfloat16 (5 to 20 % gained there, 10 to 20 % lost on the others).
        """
        return self.settings.force_channels_last or (device.type == "cpu" and devices.has_native_bf16())

    def free_memory(self, device: torch.device | None = None) -> int:
        """Bytes free on a device, less what the settings leave to others."""
        device = device or self.device
        reserved = 0 if device.type == "cpu" else int((self.settings.reserve_vram or 0.4) * 1024**3)
        return max(0, int(loading.get_free_memory(device)) - reserved)

    def available(self, device: torch.device | None = None) -> int:
        """Bytes free on a device once everything that is not in use were unloaded."""
        device = device or self.device
        with self._lock:
            idle = sum(one.nbytes for one in self._on(device) if not one.in_use)
        return self.free_memory(device) + idle

    @contextmanager
    def loaded(
        self,
        source: Loadable[P],
        dtype: torch.dtype | None,
        device: torch.device | None = None,
        working: int = 0,
    ) -> Iterator[nn.Module]:
        """The network on its device for as long as the block lasts; it may be unloaded afterwards.

        dtype: of the weights, None for as in the file. working: bytes that the computation will need besides.

        Raises OutOfMemory when there is no room even after everything else is unloaded.
        """
        device = device or self.device
        with self._lock:
            entry = self._enter(source, dtype, device, working)
        try:
            yield entry.network
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory(source.name, device, working) from error
        finally:
            with self._lock:
                entry.users -= 1
                if self.settings.disable_smart_memory and entry.users == 0:
                    self._unload([key for key, one in self._loaded.items() if one is entry])

    def free(self, needed: int, device: torch.device | None = None) -> int:
        """Unload networks that are not in use until `needed` bytes are free; how many are free then."""
        device = device or self.device
        with self._lock:
            self._unload(to_evict(self._on(device), self.free_memory(device), needed))
        return self.free_memory(device)

    def unload_all(self) -> None:
        """Unload every network that is not in use."""
        with self._lock:
            self._unload([key for key, one in self._loaded.items() if one.users == 0])

    def unload(self, source: Loadable[Any]) -> None:
        """Unload one network, unless it is in use."""
        with self._lock:
            self._unload([key for key, one in self._loaded.items() if self._is(key, source) and one.users == 0])

    def forget(self, source: Loadable[Any]) -> None:
        """Hand a network out no more, though it may be in use: it is not what it is thought to be."""
        with self._lock:
            for key in [key for key in self._loaded if self._is(key, source)]:
                del self._loaded[key]

    def holds(self, source: Loadable[Any]) -> bool:
        """Whether a network is loaded, whatever its patches."""
        with self._lock:
            return any(self._is(key, source) for key in self._loaded)

    @staticmethod
    def _is(key: _Key, source: Loadable[Any]) -> bool:
        return (key.name, key.identity) == (source.name, source.identity)

    def note(self, model: Any) -> None:
        """Remember a model that has been loaded, for as long as anything else refers to it."""
        self._models.add(model)

    def models(self) -> list[Any]:
        """The models that are loaded."""
        return [model for model in list(self._models) if self.holds(model.source)]

    def forget_dead(self) -> None:
        """Unload networks that belong to no model that is left."""
        with self._lock:
            alive = {(model.source.name, model.source.identity) for model in list(self._models)}
            self._unload([k for k, one in self._loaded.items() if one.users == 0 and (k.name, k.identity) not in alive])

    def move(self, module: nn.Module, device: torch.device | None = None) -> nn.Module:
        """A network of someone else's on a device: the compute device where None."""
        return casting.move(module, device or self.device)

    def resident(self) -> list[tuple[str, int]]:
        """Names and bytes of the loaded networks."""
        with self._lock:
            return [(key.name, one.nbytes) for key, one in self._loaded.items()]

    def _enter(self, source: Loadable[P], dtype: torch.dtype | None, device: torch.device, working: int) -> _Loaded[P]:
        channels_last = self.channels_last(device)
        key = _Key(source.name, source.identity, str(device), str(dtype), channels_last)
        entry: _Loaded[P] | None = self._loaded.get(key)
        if entry is not None and entry.digest != source.patches_digest:
            entry = self._repatch(key, entry, source, dtype, device)
        if entry is None:
            self.free(source.nbytes(dtype) + working, device)
            network = self._load(source, dtype, device, channels_last)
            entry = _Loaded(network, source.patches, source.patches_digest, source.nbytes(dtype), 0)
            self._loaded[key] = entry
        elif working:
            entry.users += 1  # not to be unloaded for its own computation
            self.free(working, device)
            entry.users -= 1
        entry.users += 1
        entry.last_used = next(self._clock)
        return entry

    def _repatch(
        self, key: _Key, entry: _Loaded[P], source: Loadable[P], dtype: torch.dtype | None, device: torch.device
    ) -> _Loaded[P] | None:
        if entry.users:  # someone computes with the other patches: load a second copy, forget this one when it is done
            self._loaded.pop(key)
            return None
        try:
            source.update(entry.network, entry.patches, device, dtype, key.channels_last)
        except BaseException:
            self._loaded.pop(key, None)  # half patched
            raise
        entry.patches, entry.digest = source.patches, source.patches_digest
        return entry

    def _load(
        self, source: Loadable[P], dtype: torch.dtype | None, device: torch.device, channels_last: bool
    ) -> nn.Module:
        try:
            return source.load(device, dtype, channels_last)
        except torch.OutOfMemoryError:
            _log.info("Out of memory while loading the %s: unloading everything else.", source.name)
        self.unload_all()
        try:
            return source.load(device, dtype, channels_last)
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory(source.name, device, source.nbytes(dtype)) from error

    def _on(self, device: torch.device) -> list[Resident]:
        return [
            Resident(key, one.nbytes, one.last_used, one.users > 0)
            for key, one in self._loaded.items()
            if key.device == str(device)
        ]

    def _unload(self, keys: Sequence[Any]) -> None:
        if not keys:
            return
        for key in keys:
            del self._loaded[key]
        loading.soft_empty_cache()

    def _out_of_memory(self, name: str, device: torch.device, needed: int) -> OutOfMemory:
        mib = devices.MIB
        held = ", ".join(f"{one} {size // mib} MB" for one, size in self.resident()) or "nothing"
        return OutOfMemory(
            f"The {name} does not fit into the memory of {device}.",
            why=f"About {needed // mib} MB were asked for, {self.free_memory(device) // mib} MB are free; "
            f"resident: {held}.",
            do="Make the picture or the batch smaller, close other programs, or start with --cpu.",
        )
