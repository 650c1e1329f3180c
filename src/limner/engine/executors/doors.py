"""The `Run` that the engine gives to nodes: cheap to make, and the memory manager only when a node asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from limner.graph import Run
from limner.graph.run import ProgressSink


class EngineRun(Run):
    """A `Run` whose memory manager is made when it is first reached: most nodes never do, and it imports torch."""

    def __init__(
        self,
        prompt_id: str,
        node_id: str,
        settings: Any,
        store: Any,
        memory_of: Callable[[], Any],
        sink: ProgressSink,
        prompt: Mapping[str, Any],
        extra_pnginfo: Mapping[str, Any] | None,
        list_index: int | None = None,
    ) -> None:
        # Straight into the instance: a frozen dataclass sets field by field, which is slow for something made per node.
        self.__dict__.update(
            prompt_id=prompt_id,
            node_id=node_id,
            settings=settings,
            store=store,
            _memory_of=memory_of,
            sink=sink,
            prompt=prompt,
            extra_pnginfo=extra_pnginfo,
            list_index=list_index,
        )

    @property
    def memory(self) -> Any:
        """The memory manager, None in an engine without one."""
        return self.__dict__["_memory_of"]()

    def at(self, list_index: int) -> EngineRun:
        """The same run in that one of the mapped calls (rule A3)."""
        fields = {name: value for name, value in self.__dict__.items() if name not in ("_memory_of", "list_index")}
        return EngineRun(**fields, memory_of=self.__dict__["_memory_of"], list_index=list_index)
