"""Primitives: one value, typed in once and wired to many places."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from limner.graph import Float, Int, Text, node

LARGEST = 2**63 - 1
primitive = partial(node, category="utils/primitive", python_module="comfy_extras.nodes_primitive", style="v3")


@primitive("PrimitiveString", title="String")
def string(value: Annotated[str, Text(multiline=False)]) -> str:
    """A line of text.

    value: the text.
    """
    return value


@primitive("PrimitiveStringMultiline", title="String (Multiline)")
def lines(value: Annotated[str, Text(multiline=True)]) -> str:
    """A text of many lines.

    value: the text.
    """
    return value


@primitive("PrimitiveInt", title="Int")
def integer(value: Annotated[int, Int(min=-LARGEST, max=LARGEST, control_after_generate=True)]) -> int:
    """A whole number.

    value: the number.
    """
    return value


@primitive("PrimitiveFloat", title="Float")
def number(value: Annotated[float, Float(min=-LARGEST, max=LARGEST)]) -> float:
    """A number.

    value: the number.
    """
    return value


@primitive("PrimitiveBoolean", title="Boolean")
def switch(value: bool) -> bool:
    """Yes or no.

    value: which.
    """
    return value
