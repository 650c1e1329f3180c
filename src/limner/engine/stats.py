"""Counts of what the engine has done since it was started, for whoever watches it."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any


class Stats:
    """Thread-safe. Prompts by how they ended, runs and seconds of nodes by class, results taken from the cache."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.prompts: Counter[str] = Counter()
        self.node_runs: Counter[str] = Counter()
        self.node_seconds: defaultdict[str, float] = defaultdict(float)
        self.cached = 0

    def ended(self, status: str, explained: Mapping[str, Any] | None) -> None:
        """A prompt ended. explained: `{"nodes": …}`, why each node ran, where the executor says so."""
        with self._lock:
            self.prompts[status] += 1
            for why in (explained or {}).get("nodes", {}).values():
                if why.get("cached"):
                    self.cached += 1
                    continue
                kind = str(why.get("class_type", ""))
                self.node_runs[kind] += 1
                self.node_seconds[kind] += why.get("seconds") or 0

    def snapshot(self) -> dict[str, Any]:
        """The counts as they are now."""
        with self._lock:
            return {
                "prompts": dict(self.prompts),
                "node_runs": dict(self.node_runs),
                "node_seconds": dict(self.node_seconds),
                "cached": self.cached,
            }
