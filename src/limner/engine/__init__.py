"""The engine: queue, run loop, executors, result cache, events. Free of torch until a node brings it."""

from limner.engine.engine import Accepted, Engine, calm_collector
from limner.engine.registry import NodeRegistry
from limner.engine.submit import PromptRejected

__all__ = ["Accepted", "Engine", "NodeRegistry", "PromptRejected", "calm_collector"]
