"""How quantized layers compute within a `with` block: what the device is believed to do, and whether rounding of
activations is imitated where it cannot be done fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Mode:
    """fp8: None asks the device, else taken as told. emulate: round activations also where no fast path does, so that a
    machine without float8 shows the numbers of one that has it. full_precision: no fast path, nothing is rounded.
    """

    fp8: bool | None = None
    emulate: bool = False
    full_precision: bool = False


_MODE: ContextVar[Mode] = ContextVar("quant_mode", default=Mode())  # noqa: B039 - Mode is frozen


def mode() -> Mode:
    """What holds here."""
    return _MODE.get()


@contextmanager
def computing(**changes: Any) -> Iterator[Mode]:
    """Within the block, the fields of `Mode` named by `changes` are as given."""
    token = _MODE.set(replace(_MODE.get(), **changes))
    try:
        yield _MODE.get()
    finally:
        _MODE.reset(token)
