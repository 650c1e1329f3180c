"""A second try where memory ran out: after room was made, and in smaller parts where there are any."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from limner.errors import OutOfMemory
from limner.memory import devices

_log = logging.getLogger(__name__)

T = TypeVar("T")


def once_more(whole: Callable[[], T], relieve: Callable[[], None], parts: Callable[[], T], what: str) -> T:
    """What `whole` gives; where memory runs out, room is made by `relieve`, and `parts` is tried, once.

    what: is computed, for the log. The second error is not caught.
    """
    try:
        return whole()
    except (RuntimeError, OutOfMemory) as error:
        if not devices.is_out_of_memory(error):
            raise
        _log.warning("Out of memory: %s is tried once more, one part after the other.", what)
    # Only behind the block is the error gone, and with it what the failed try had in its frames.
    relieve()
    return parts()
