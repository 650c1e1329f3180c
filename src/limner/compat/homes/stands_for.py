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
