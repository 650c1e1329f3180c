"""Running prompts in the thread that asks: what one run leaves for the next."""

from __future__ import annotations

from collections.abc import Callable
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

__all__ = ["LocalExecutor", "Outcome", "now"]


class LocalExecutor:
    """Runs prompts in the thread that calls it, one at a time.

    settings, store: what nodes reach through their `Run`. memory: makes the memory manager when the first node reaches
    for it. Node modules are imported when a prompt first needs them.
    """

    def __init__(
        self,
        settings: Any,
        store: Any,
        registry: NodeRegistry,
        cache: ResultCache,
        memory: Callable[[], Any] | None = None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.registry = registry
        self.cache = cache
        self.functions = Functions(registry)
        self.instances = Instances()
        self.reasons = Reasons()
        self.has_expanded = False
        self._make_memory = memory
        self._memory: Any = None

    def memory_manager(self) -> Any:
        """The memory manager, made when first asked for; None in an engine without one."""
        if self._memory is None and self._make_memory is not None:
            self._memory = self._make_memory()
        return self._memory

    def execute(self, job: Job, hub: EventHub) -> Outcome:
        """Run a prompt to its end: failures are outcomes. Raises Interrupted alone, where the thread is broken off."""
        return PromptRun(self, job, hub).execute()

    def unload_models(self) -> None:
        """Give back the memory of loaded models, if any were loaded."""
        if self._memory is not None:
            self._memory.unload_all()

    def drop_results(self) -> None:
        """Forget every cached result and instance (rule C12)."""
        self.cache.clear()
        self.instances.clear()
