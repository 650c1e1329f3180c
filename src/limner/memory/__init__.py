"""Memory: devices, dtypes, budgets, and what is loaded where."""

from limner.memory.dtypes import Precision
from limner.memory.manager import Loadable, MemoryManager
from limner.memory.settings import DefaultSettings, MemorySettings

__all__ = ["DefaultSettings", "Loadable", "MemoryManager", "MemorySettings", "Precision"]
