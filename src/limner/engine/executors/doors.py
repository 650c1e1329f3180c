"""The `Run` that the engine gives to nodes: cheap to make, and the memory manager only when a node asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limner.graph import Run


class EngineRun(Run):
    """A `Run` whose memory manager is made when it is first reached: most nodes never do, and it imports torch."""

    def __init__(self, shared: Mapping[str, Any], node_id: str, list_index: int = 0) -> None:
        """shared: the fields that are alike for all nodes of a run, and `_memory_of`, which makes the manager."""
        # Straight into the instance: a frozen dataclass sets field by field, which is slow for something made per node.
        self.__dict__.update(shared)
        self.__dict__["node_id"] = node_id
        self.__dict__["list_index"] = list_index

    @property
    def memory(self) -> Any:
        """The memory manager, None in an engine without one."""
        return self.__dict__["_memory_of"]()

    def at(self, list_index: int) -> EngineRun:
        """The same run in that one of the mapped calls (rule A3)."""
        return EngineRun(self.__dict__, self.node_id, list_index)
