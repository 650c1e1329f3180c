"""Every built-in node as the class that packs expect, by kind: `from …builtin_classes import ImageUpscaleWithModel`."""

from __future__ import annotations

from typing import Any

from limner.compat.builtin import class_of
from limner.compat.host import current


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return class_of(current(), name)
