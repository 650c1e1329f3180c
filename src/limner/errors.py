"""What can go wrong, in words a person can act on: one error type for the wire, the log and the command line."""

from __future__ import annotations


class LimnerError(Exception):
    """Something failed: `what` happened, `why` it did, and what to `do` about it.

    The three parts are kept apart so that the protocol, the log and the command line can lay them out as each
    needs; `str(error)` joins those that are not empty.
    """

    def __init__(self, what: str, why: str = "", do: str = "") -> None:
        super().__init__(what, why, do)
        self.what = what
        self.why = why
        self.do = do

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.why, self.do) if part)


class BadInput(LimnerError):
    """A value, file or request that cannot be right; refused where it enters."""


class NotFound(BadInput):
    """A name that is not there: a model, a file, a node kind. `do` names the nearest ones that are."""


class Forbidden(BadInput):
    """A request for something outside what the asker may reach: a path escape, a foreign origin."""


class OutOfMemory(LimnerError):
    """A device has too little memory for what was asked; says how much was asked and what was resident."""


class Interrupted(Exception):
    """The running prompt was interrupted on request. Not a failure, so not a LimnerError."""
