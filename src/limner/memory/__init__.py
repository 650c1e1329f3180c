"""Memory: devices, dtypes, budgets, and what is loaded where."""

from limner.memory.dtypes import Precision
from limner.memory.manager import MemoryManager
from limner.memory.settings import DefaultSettings, MemorySettings
from limner.memory.units import Loadable

__all__ = ["DefaultSettings", "Loadable", "MemoryManager", "MemorySettings", "Precision"]
