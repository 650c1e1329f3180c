"""Making a node stop that does not look whether it should."""

from __future__ import annotations

import ctypes
import sys
from threading import get_ident
from types import FrameType

from limner.errors import Interrupted

ENGINE = "limner.engine"
BOOKS = ("limner.memory", "limner.weights", "limner.models", "limner.sampling", "limner.store")
"""Packages that keep books, of what is loaded where and of what is written, or change weights in place."""
IMPORTS = "importlib."


def may_be_broken_off(frame: FrameType | None) -> bool:
    """Whether the innermost code of a thread belongs to a node, so that an exception in it harms the node alone.

    Not while a module is imported, which would stay half made, and not inside `BOOKS`, whose books would be left wrong:
    those look at interrupts themselves.
    """
    depth = 0
    while frame is not None:
        name = frame.f_globals.get("__name__") or ""
        if name.startswith(ENGINE):
            return depth > 0
        if name.startswith((IMPORTS, *BOOKS)):
            return False
        depth += 1
        frame = frame.f_back
    return False


def break_off(thread: int) -> bool:
    """Raise Interrupted in a thread, at its next step in Python, if that harms nothing. Returns whether it will be.

    A thread inside a long call into C hears it when that returns.
    """
    if not may_be_broken_off(sys._current_frames().get(thread)):
        return False
    _raise_in(thread)
    return True


def swallow() -> None:
    """What may still be on its way to this thread is raised here, and goes no further.

    Nothing is taken back with a null exception: CPython 3.11 would look for one ever after, which slows every thread.
    """
    try:
        _raise_in(get_ident())
        for _ in range(100_000):  # the interpreter looks for exceptions where a loop begins anew
            pass
    except Interrupted:
        return


def _raise_in(thread: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Interrupted))
