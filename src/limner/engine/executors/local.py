"""Running prompts in the thread that asks: what one run leaves for the next."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Any

from limner.engine.cache import ResultCache
from limner.engine.executors.functions import Functions
from limner.engine.executors.instances import Instances
from limner.engine.executors.outcome import Outcome, now
from limner.engine.executors.run import PromptRun
from limner.engine.explain import Reasons
from limner.engine.hub import EventHub
from limner.engine.queue import Job
from limner.engine.registry import NodeRegistry
from limner.engine.sizes import bytes_by_device

__all__ = ["Describe", "LocalExecutor", "Outcome", "now"]

Describe = Callable[[Any, Mapping[str, int], bool], dict[str, Any]]


class LocalExecutor:
    """Runs prompts in the thread that calls it, one at a time.

    settings, store: what nodes reach through their `Run`. memory: makes the memory manager when the first node reaches
    for it. describe: says what is where, of a manager, the bytes of results by device and whether a prompt runs. Node
    modules are imported when a prompt first needs them.

    running: the run that is past its beginning. wants_room: whether it is to let go of what it does not need.
    """

    def __init__(
        self,
        settings: Any,
        store: Any,
        registry: NodeRegistry,
        cache: ResultCache,
        memory: Callable[[], Any] | None = None,
        describe: Describe | None = None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.registry = registry
        self.cache = cache
        self.functions = Functions(registry)
        self.instances = Instances()
        self.reasons = Reasons()
        self.has_expanded = False
        self.running: PromptRun | None = None
        self.wants_room = False
        self._make_memory = memory
        self._memory: Any = None
        self._describe = describe

    def memory_manager(self) -> Any:
        """The memory manager, made when first asked for; None in an engine without one."""
        if self._memory is None and self._make_memory is not None:
            self.use_memory(self._make_memory())
        return self._memory

    def use_memory(self, manager: Any) -> None:
        """This is the memory manager, whoever made it. Results give way to what it loads."""
        if self._memory is not manager:
            self._memory = manager
            manager.add_relief(self.relieve)

    def execute(self, job: Job, hub: EventHub) -> Outcome:
        """Run a prompt to its end: failures are outcomes. Raises Interrupted alone, where the thread is broken off."""
        return PromptRun(self, job, hub).execute()

    def unload_models(self) -> None:
        """Give back the memory of loaded models that are not in use, if any were loaded. Any thread."""
        if self._memory is not None:
            self._memory.unload_all()

    def drop_results(self) -> None:
        """Forget every cached result and instance (rule C12)."""
        self.wants_room = False
        self.cache.clear()
        self.instances.clear()

    def trim(self) -> None:
        """Give memory that nothing is in back to the system. Any thread."""
        if self._memory is None:
            gc.collect()
        else:
            self._memory.trim()

    def spare(self, unload_models: bool, free_memory: bool) -> None:
        """Do without what the running prompt does not need: models at once, results once its node is over.

        Any thread.
        """
        if free_memory:
            self.wants_room = True
        if unload_models:
            self.unload_models()
            self.trim()

    def make_room(self, run: PromptRun) -> None:
        """Between two nodes: let go of every result that the run does not need."""
        self.wants_room = False
        run.relieve(sys.maxsize)
        self.trim()

    def relieve(self, needed: int) -> int:
        """Drop results that the running prompt does not need until `needed` bytes of RAM are free; how many are.

        0 in any thread but the one that runs nodes, to which the cache belongs.
        """
        run = self.running
        return run.relieve(needed) if run is not None and run.thread == get_ident() else 0

    def loaded(self) -> str:
        """What is loaded, as an error tells it; nothing where no model was."""
        held = [] if self._memory is None else self._memory.held()
        parts = (f"{one.name} {one.resident >> 20} MB on {one.device}" for one in held if one.resident >> 20)
        return f"Loaded: {', '.join(parts) or 'nothing'}." if held else ""

    def describe_memory(self) -> dict[str, Any] | None:
        """What is where in memory; None as long as there is no memory manager. Any thread."""
        manager, run = self._memory, self.running
        if manager is None or self._describe is None:
            return None
        entries = [*self.cache.entries(), *([] if run is None else list(run.results.values()))]
        return self._describe(manager, bytes_by_device(entry.outputs for entry in entries), run is not None)
