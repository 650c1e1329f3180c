"""Files that nodes ask for by name and that are read once for all of them: `cls.resources.get(key)`."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

from limner.compat import host
from limner.errors import LimnerError


class ResourceKey(ABC):  # noqa: B024 - as packs know it
    """What a resource is asked for by. Type: what it gives."""

    Type: Any = Any


@dataclass(frozen=True)
class TorchDictFolderFilename(ResourceKey):
    """The tensors of a model file: its folder's key (such as `loras`) and its name in it."""

    folder_name: str
    file_name: str

    Type = dict[str, Any]


class Resources(ABC):
    """Where resources come from."""

    @abstractmethod
    def get(self, key: ResourceKey, default: Any = ...) -> Any:
        """The resource of a key; `default`, if given, when it is not there, else an error."""


class ResourcesLocal(Resources):
    """Resources of this machine, kept once read. Safe in several threads."""

    def __init__(self) -> None:
        self.local_resources: dict[ResourceKey, Any] = {}
        self._lock = threading.Lock()

    def get(self, key: ResourceKey, default: Any | EllipsisType = ...) -> Any:
        """The resource of a key. Raises LimnerError for a kind of key that is not known, NotFound for no such file."""
        with self._lock:
            if key in self.local_resources:
                return self.local_resources[key]
        if not isinstance(key, TorchDictFolderFilename):
            raise LimnerError(
                f"Resources of kind {type(key).__name__} are not known.", do="Use TorchDictFolderFilename."
            )
        try:
            found = _tensors(key)
        except (LimnerError, OSError):
            if default is ...:
                raise
            return default
        with self._lock:
            return self.local_resources.setdefault(key, found)


def _tensors(key: TorchDictFolderFilename) -> dict[str, Any]:
    from limner.compat.homes.comfy_utils import load_torch_file  # noqa: PLC0415 - torch is needed only here

    path = host.current().run().store.folders.path(key.folder_name, key.file_name)
    found: dict[str, Any] = load_torch_file(path)
    return found
