"""What is imported before the first pack, because ComfyUI has it imported by then.

Some packs put `sys.modules` back to what it was before they were imported, to keep their own modules apart. What they
were the first to import is then gone, and comes a second time for the next who asks: a second torch ends the process,
and a second copy of our classes is none of the first to `isinstance`.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Iterator

log = logging.getLogger(__name__)

LIBRARIES = (
    "torch",
    "torchvision",
    "numpy",
    "PIL.Image",
    "scipy.special",
    "safetensors.torch",
    "tokenizers",
    "av",
    "torchsde",
    "yaml",
    "tqdm",
)
PACKAGES = ("graph", "store", "engine", "memory", "weights", "sampling", "models", "nodes", "compat")


def preload() -> None:
    """Import the libraries and every module of Limner that packs may come to use; seconds, once."""
    for name in (*LIBRARIES, *_own()):
        _import(name)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception:  # a module that needs what is not installed is missed by who uses it, not by all packs
        log.debug("%s cannot be imported before the packs.", name, exc_info=True)


def _own() -> Iterator[str]:
    root = __name__.partition(".")[0]
    for package in PACKAGES:
        found = importlib.import_module(f"{root}.{package}")
        yield from (
            one.name
            for one in pkgutil.walk_packages(found.__path__, f"{found.__name__}.")
            if not one.name.endswith((".__main__", ".env")) and ".migrations." not in one.name
        )
