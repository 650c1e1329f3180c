"""What the homes work with: the memory manager of the process, and the folders of its store."""

from __future__ import annotations

from functools import cache
from typing import Any

from limner.compat import finder
from limner.graph import CURRENT_RUN
from limner.memory import MemoryManager
from limner.models.text.vocabulary import INSTALLED, Vocabularies


@cache
def _own() -> MemoryManager:
    """For a process without an engine, such as a script that imports a pack."""
    return MemoryManager()


def memory() -> MemoryManager:
    """The running node's memory manager; that of the engine; or one of its own where there is no engine."""
    run = CURRENT_RUN.get()
    if run is not None and run.memory is not None:
        found: MemoryManager = run.memory
        return found
    made = getattr(host(), "memory", None)
    if callable(made):
        made = made()
    return made if isinstance(made, MemoryManager) else _own()


def vocabularies() -> Vocabularies:
    """Where tokenizers' data may be found: as for nodes, or installed packages alone where there is no store."""
    made = host()
    folders, settings = getattr(getattr(made, "store", None), "folders", None), getattr(made, "settings", None)
    if folders is None or settings is None:
        return INSTALLED
    hub = None if getattr(settings, "offline", True) else settings.model_hub
    return Vocabularies.beside(folders.roots("text_encoders"), hub)


def host() -> Any:
    """What the finder was installed with: the engine's side, or None where there is none."""
    return getattr(finder.current(), "host", None)
