"""Texts that nodes are given and nobody else is shown."""

from __future__ import annotations

from typing import Any


class Secret(str):
    """A text that reports and logs of values leave out; to the node it is a text like any other."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "(secret)"


def secret(value: Any) -> Any:
    """A text as a Secret; anything else as it is."""
    return Secret(value) if isinstance(value, str) else value
