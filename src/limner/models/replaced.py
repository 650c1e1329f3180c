"""Loaders that packs have put in the place of Limner's, by their names in `comfy.sd`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LOADERS: dict[str, Callable[..., Any]] = {}
"""What packs have put there. The loaders of nodes ask here first."""


def get(name: str, *args: Any, **kwargs: Any) -> Any:
    """What a pack's loader of this name makes of it, or None where there is none."""
    loader = LOADERS.get(name)
    return None if loader is None else loader(*args, **kwargs)
