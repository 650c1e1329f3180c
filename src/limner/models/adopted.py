"""Models that packs make their own by assigning `__class__`: they become both, the pack's class and Limner's."""

from __future__ import annotations

from functools import cache
from typing import Any

_SWAP: Any = object.__dict__["__class__"]


class Adoptable:
    """A pack's class knows what a network in memory does. Where a model is more than that, its own class stays a base
    of what it becomes, behind the pack's: what the pack replaces holds, and the rest is as it was.
    """

    @property
    def __class__(self) -> Any:
        """What it is."""
        return type(self)

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        own: Any = next(one for one in type(self).__mro__ if one.__module__.startswith("limner."))
        if issubclass(own, kind):
            kind = own  # less than it is it cannot become: who asks for a base gets what it was
        _SWAP.__set__(self, kind if issubclass(kind, own) else both(kind, own))


@cache
def both(kind: type, own: type) -> type:
    """A class of a pack's and of Limner's, in this order."""
    return type(kind)(kind.__name__, (kind, own), {"__module__": kind.__module__})
