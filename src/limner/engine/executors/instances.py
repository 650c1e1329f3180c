"""Instances of packs' classes: one per node, kept while the node stays in consecutive prompts (rule C1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limner.engine.executors.functions import Prepared
from limner.graph import Prompt


class Instances:
    """Instances by (node id, kind). Called by the thread that runs nodes only."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._runs = 0
        self._owner: str | None = None

    def begin(self, prompt: Prompt, owner: str | None = None) -> None:
        """A prompt starts: instances of nodes that it does not have go, and all of another owner's prompt.

        Those that an expansion made stay while the node it was made for does, and was expanded in the last run.
        """
        if owner != self._owner:
            self.clear()
            self._owner = owner
        self._runs += 1
        gone = [key for key, one in self._kept.items() if not self._stays(key, one, prompt)]
        for key in gone:
            del self._kept[key]

    def get(self, node: str, root: str, prompt: Mapping[str, Any], prepared: Prepared) -> Any:
        """The instance of a node, made when it is first asked for; None for a built-in kind.

        root: the node of the prompt that it belongs to, itself where no expansion made it. Raises what the class
        raises.
        """
        if prepared.source is None:
            return None
        kind = prepared.schema.kind
        kept = self._kept.get((node, kind))
        if kept is None:
            kept = _Kept(prepared.source.make(kind), root, prompt[root].kind)
            self._kept[(node, kind)] = kept
        kept.used = self._runs
        return kept.instance

    def clear(self) -> None:
        """Keep none (rule C12)."""
        self._kept.clear()

    def _stays(self, key: tuple[str, str], one: _Kept, prompt: Prompt) -> bool:
        root = prompt.get(one.root)
        if root is None or root.kind != one.root_kind:
            return False
        return key[0] == one.root or one.used >= self._runs - 1


class _Kept:
    __slots__ = ("instance", "root", "root_kind", "used")

    def __init__(self, instance: Any, root: str, root_kind: str) -> None:
        self.instance = instance
        self.root = root
        self.root_kind = root_kind
        self.used = 0
