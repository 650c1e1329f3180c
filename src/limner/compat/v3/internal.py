"""The machinery of V3 classes: properties of classes, clones that cannot be changed, one object of a kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from limner.compat.v3.base import pruned

prune_dict = pruned


class classproperty:  # noqa: N801 - the name that packs know
    """A property of a class: `Node.CATEGORY` calls the function with the class."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.fget = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self.fget(type(instance) if owner is None else owner)


class _Locked:
    """A metaclass part: the class takes no new attributes."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{self} is shared by all that runs: {name!r} cannot be set on it. Nodes keep no state.")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{self} is shared by all that runs: {name!r} cannot be deleted from it.")


@cache
def _locked_kind(base: Any) -> Any:
    return type("Locked", (_Locked, base), {})


def lock_class(cls: Any) -> Any:
    """A subclass of a class that nothing can be set on."""
    return locked_clone(cls, {})


def locked_clone(cls: Any, attributes: Mapping[str, Any]) -> Any:
    """A locked subclass that carries attributes."""
    kind: Any = type(cls)
    return _locked_kind(kind)(
        cls.__name__,
        (cls,),
        {**attributes, "__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__},
    )


def shallow_clone_class(cls: Any, new_name: str | None = None) -> Any:
    """A subclass with nothing of its own."""
    return type(cls)(new_name or f"{cls.__name__}Clone", (cls,), {"__module__": cls.__module__})


def is_class(one: Any) -> bool:
    """Whether something is a class."""
    return isinstance(one, type)


def first_real_override(cls: type, name: str, *, base: type | None = None) -> Any:
    """A class's own method of that name: None when it has only the one of `base` (its topmost class but object)."""
    root = base or next((one for one in reversed(cls.__mro__) if name in vars(one)), object)
    for one in cls.__mro__:
        if name in vars(one):
            return None if one is root else getattr(cls, name)
    return None


class ProxiedSingleton:
    """A class that gives the same object each time it is called."""

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        """The one object of this class."""
        del arguments, named
        found = vars(cls).get("_instance")
        if found is None:
            found = super().__new__(cls)
            cls._instance = found
        return found

    @classmethod
    def get_instance(cls, *arguments: Any, **named: Any) -> Any:
        """The one object of this class."""
        return cls(*arguments, **named)
