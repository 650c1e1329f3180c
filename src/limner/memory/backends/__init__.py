"""Kinds of devices, one a file: each says what its devices are, how much memory they have and how work is queued there.

The folder is the registry: every module here with a `BACKEND` is a kind. Nothing asks the hardware before it is asked.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module

import torch

from limner.errors import BadInput
from limner.memory.backends.protocol import Backend, supported

__all__ = ["accelerators", "kinds", "of", "of_kind"]


@cache
def kinds() -> Mapping[str, Backend]:
    """Every kind of this folder by torch's name, in order of name, whether this computer has such a device or not."""
    modules = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    found: list[Backend] = [module.BACKEND for module in modules if hasattr(module, "BACKEND")]
    return {one.kind: one for one in sorted(found, key=lambda one: one.kind)}


def of_kind(kind: str) -> Backend:
    """The backend of a device type. Raises BadInput for one that no file knows."""
    if kind not in kinds():
        raise BadInput(f"Devices of type `{kind}` are not supported.", do=f"Choose one of {', '.join(kinds())}.")
    return kinds()[kind]


def of(device: torch.device) -> Backend:
    """The backend of a device. Raises BadInput for a type that no file knows."""
    return of_kind(device.type)


def accelerators() -> list[Backend]:
    """The kinds other than the CPU of which this computer has a device, the preferred first: in order of name."""
    return supported([one for one in kinds().values() if one.kind != "cpu"])
