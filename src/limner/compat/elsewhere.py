"""Names that packs take from a module which only imports them.

`comfy.samplers.torch`, `comfy.sd.model_management` and `from comfy.model_patcher import PatcherInjection` work in
ComfyUI because its files import these things. A module of the tables that does not know a name itself passes on the
library of that name, the module of `comfy` of that name, or the one class or function of that name in `comfy`.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from inspect import isclass, isfunction
from types import MappingProxyType, ModuleType
from typing import Any, Protocol

from limner.compat.tables import Table

_SAME_NAME = """
    collections contextlib copy enum folder_paths functools gc glob hashlib importlib inspect itertools json logging
    math mimetypes node_helpers nodes numbers os platform psutil random re safetensors scipy shutil struct sys tempfile
    threading time torch traceback uuid warnings
"""
LIBRARIES = MappingProxyType(
    {
        **{name: name for name in _SAME_NAME.split()},
        "np": "numpy",
        "numpy": "numpy",
        "nn": "torch.nn",
        "F": "torch.nn.functional",
        "th": "torch",
        "web": "aiohttp.web",
        "Image": "PIL.Image",
        "comfy": "comfy",
        "comfy_extras": "comfy_extras",
        "server": "server",
        "execution": "execution",
        "latent_preview": "latent_preview",
    }
)
# What homes import for their own work and is no name of ComfyUI's.
OWN = ("limner.errors", "limner.compat.host", "limner.compat.finder", "limner.graph")
HELPERS = frozenset(("NotYet", "StandsFor", "missing", "placeholder", "node_placeholder"))


class Tables(Protocol):
    """The finder's side: which modules there are, and what is known of each."""

    def knows(self, name: str) -> bool:
        """Whether there is a module of that name."""
        ...

    def names(self) -> list[str]:
        """Every module."""
        ...

    def table(self, name: str) -> Table:
        """What is known of one."""
        ...


class Elsewhere:
    """Looks names up that a module does not have itself."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._lock = threading.RLock()
        self._index: dict[str, list[str]] | None = None

    def find(self, module: str, name: str) -> Any:
        """What a module passes on under a name, or None."""
        if name.startswith("_") or module.partition(".")[0].startswith("comfy_api"):
            return None
        if name in LIBRARIES:
            return _imported(LIBRARIES[name])
        if self._tables.knows(f"comfy.{name}"):
            return import_module(f"comfy.{name}")
        holders = self._holders().get(name, [])
        found = [one for one in (_member(holder, name) for holder in holders) if one is not None]
        return found[0] if found and all(one is found[0] for one in found) else None

    def _holders(self) -> dict[str, list[str]]:
        """Name → the modules of `comfy` that have it, read once."""
        with self._lock:
            if self._index is None:
                index: dict[str, list[str]] = defaultdict(list)
                for module in self._tables.names():
                    if module.startswith("comfy."):
                        for name in dict.fromkeys(self._names_of(self._tables.table(module))):
                            index[name].append(module)
                self._index = dict(index)
            return self._index

    def _names_of(self, table: Table) -> Iterator[str]:
        for name in table.names:
            if not name.startswith("_"):
                yield name
        home = _imported(table.home) if table.home else None
        for name, value in vars(home).items() if home is not None else ():
            if not name.startswith("_") and name not in table.absent and name not in HELPERS and _is_passed_on(value):
                yield name


def _imported(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ImportError:
        return None


def _member(module: str, name: str) -> Any:
    value = getattr(import_module(module), name, None)
    return value if _is_passed_on(value) else None


def _is_passed_on(value: Any) -> bool:
    """Whether it is a class or function of Limner's that ComfyUI's files may import from one another."""
    if not (isclass(value) or isfunction(value)):
        return False
    place = str(getattr(value, "__module__", ""))
    return place.startswith("limner.") and not place.startswith(OWN)
