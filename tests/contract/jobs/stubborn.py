"""Nodes that do not look at interrupts, for tests of cancelling."""

from __future__ import annotations

import threading
import time
from typing import Any

from limner.graph import Run, Ui, node

WORDS: dict[str, Any] = {"deaf": threading.Event(), "entered": threading.Event()}


@node("Hog", category="test", title="Hog", output_node=True)
def hog(text: str) -> Ui:
    """Compute for ever, in Python."""
    WORDS["entered"].set()
    number = 0
    while text:
        number += 1
    return Ui({"text": [str(number)]})


@node("Deaf", category="test", title="Deaf", output_node=True)
def deaf(text: str) -> Ui:
    """Wait in C until a test lets go: no exception reaches it meanwhile."""
    WORDS["entered"].set()
    WORDS["deaf"].wait(20)
    return Ui({"text": [text]})


@node("Quick", category="test", title="Quick", output_node=True)
def quick(run: Run, text: str) -> Ui:
    """Show a text."""
    run.progress(1, 2)
    return Ui({"text": [text]})


@node("Dozes", category="test", title="Dozes")
def dozes(text: str) -> str:
    """Look at what was asked for."""
    return text


@dozes.changes_when
def _dozes(text: str) -> float:
    """Say whether it has changed, slowly and in Python, before anything runs."""
    WORDS["entered"].set()
    until = time.monotonic() + (5 if text == "slow" else 0)
    while time.monotonic() < until:
        pass
    return 0.0
