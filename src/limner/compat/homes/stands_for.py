"""Classes of ComfyUI's whose instances are made elsewhere in Limner: `isinstance` knows them all the same."""

from __future__ import annotations

from typing import Any


class StandsFor(type):
    """A metaclass: an object is an instance if it is one, or if the class's `recognises` says so."""

    def __instancecheck__(cls, instance: Any) -> bool:
        if super().__instancecheck__(instance):
            return True
        recognises = cls.__dict__.get("recognises")
        return recognises is not None and bool(recognises(instance))


class ReachesBase(StandsFor):
    """One whose attributes are its base's: what a pack assigns to the class, its base has, and every instance of it.

    Deleting what was assigned puts back what the base had.
    """

    _before: dict[str, Any]

    def __init__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> None:
        super().__init__(name, bases, body)
        type.__setattr__(cls, "_before", {})

    def __setattr__(cls, name: str, value: Any) -> None:
        if name.startswith("__"):
            super().__setattr__(name, value)
            return
        base = cls.__bases__[0]
        if name in vars(base):
            cls._before.setdefault(name, vars(base)[name])
        setattr(base, name, value)

    def __delattr__(cls, name: str) -> None:
        base = cls.__bases__[0]
        if name in cls._before:
            setattr(base, name, cls._before.pop(name))
        else:
            delattr(base, name)
