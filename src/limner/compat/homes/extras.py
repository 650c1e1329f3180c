"""The node classes of comfy_extras by name: built-in ones as classes, others as placeholders that say so."""

from __future__ import annotations

from typing import Any

from limner.compat.builtin import class_of
from limner.compat.finder import current as current_finder
from limner.compat.homes.not_yet import placeholder
from limner.compat.host import current


def __getattr__(name: str) -> Any:
    if name.startswith("mappings__"):
        return mappings(f"comfy_extras.{name.removeprefix('mappings__')}")
    if name.startswith("__"):
        raise AttributeError(name)
    finder = current_finder()
    if finder is None or finder.host is None:
        return placeholder(name, "nodes")
    try:
        return class_of(current(), name)
    except AttributeError:
        return placeholder(name, "nodes")


def mappings(module: str) -> dict[str, Any]:
    """NODE_CLASS_MAPPINGS of a module of comfy_extras: the kinds that there are."""
    finder = current_finder()
    if finder is None or finder.host is None:
        return {}
    names = finder.table(module).names
    found = {name: __getattr__(name) for name, place in names.items() if place.startswith(f"{__name__}:")}
    return {name: one for name, one in found.items() if hasattr(one, "KIND")}
