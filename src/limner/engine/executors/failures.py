"""What went wrong in a node, in the form the protocol tells it (rules R1 to R4, R6)."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from limner.engine.secrets import Secret
from limner.errors import LimnerError, OutOfMemory
from limner.graph.source import APART

LONGEST = 10_000
"""Characters of one input value that an error carries."""

MEMORY_TIP = (
    "This ran out of memory. Make the picture, the batch or the length smaller, use the tiled form of the node, or "
    "close other programs that use the device."
)

OUT_OF_MEMORY = ("DefaultCPUAllocator: ", "MPS backend out of memory")
"""What stands in plain RuntimeErrors of torch that mean too little memory."""


class ResultGone(Exception):
    """A node's result was let go, or could not be read back, and another needs it: it has to run again."""

    def __init__(self, node: str) -> None:
        super().__init__(f"The result of node {node} is not there.")
        self.node = node


class UnknownKind(LimnerError, KeyError):
    """A graph that a node returned has a node of a kind that does not exist (rule G5)."""

    wire_name = "KeyError"

    def __init__(self, kind: str, node: str) -> None:
        super().__init__(
            f"There is no node {kind}.",
            why=f"A graph that was returned has it as {node}.",
            do="Install the pack it comes from.",
        )


class NodeFailed(Exception):
    """Carries a node's exception out of the run loop, with the inputs it happened with."""

    def __init__(self, node: str, kind: str, inputs: Mapping[str, Sequence[Any]], cause: BaseException) -> None:
        super().__init__(node, kind)
        self.node = node
        self.kind = kind
        self.inputs = inputs
        self.cause = cause


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had too little memory.

    Torch's own errors are known by name, not imported; those of the allocators of the CPU and of Apple's GPUs by what
    they say.
    """
    if isinstance(error, (OutOfMemory, MemoryError)) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(mark in text_of(error) for mark in OUT_OF_MEMORY)


def message(error: BaseException, loaded: str = "") -> str:
    """The error's text, a line break, and tips if there are any. loaded: what was in memory when there was too little.

    An error that says by itself what to do is not told more.
    """
    advice: str = getattr(error, "do", "")
    if advice or not is_out_of_memory(error):
        return f"{text_of(error)}\n"
    return f"{text_of(error)}\n" + " ".join(part for part in (loaded, MEMORY_TIP) if part)


def text_of(value: object) -> str:
    """A foreign object as text; one that fails at that must not hide the error that is reported."""
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__}: {type(error).__name__} while shown>"


def type_name(error: BaseException) -> str:
    """The class with its module; built-in ones stand alone."""
    kind = type(error)
    known: str = getattr(kind, "wire_name", "")  # the name under which clients know an error of ComfyUI's
    if known:
        return known
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def frames(error: BaseException) -> list[str]:
    """The traceback, a formatted frame each, those of the run loop left out."""
    found = traceback.extract_tb(error.__traceback__)
    own = [i for i, frame in enumerate(found) if frame.filename.endswith(_OWN)]
    inner = found[own[-1] + 1 :] if own and own[-1] + 1 < len(found) else found
    return traceback.format_list(inner)


_OWN = tuple(f"limner/engine/executors/{name}.py" for name in ("run", "calls", "tasks"))


def shown_inputs(inputs: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Input values as the report has them: plain ones as they are, others as text."""
    return {name: [_shown(value) for value in values] for name, values in inputs.items() if not name.startswith(APART)}


def _shown(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Secret):
        return repr(value)
    text = text_of(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
