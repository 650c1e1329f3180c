"""NodeSource: kinds that come as classes of packs, seen by the graph and the engine as schemas and calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from limner.graph.schema import Schema

CompanionName = Literal["checks", "changes_when", "lazy"]
APART = "_hidden_"
"""How the names of hidden inputs start that are no keywords of the class itself; error reports leave them out."""


class NodeSource(Protocol):
    """Kinds whose schemas are made when asked for and whose instances live as long as their node stays in the prompts.

    A call gives a `NodeResult` (or an awaitable of one), whatever form the class itself returns.

    A source may also have `version(kind) -> str | None`: what the kind's code is known by, a hash of its pack's files.
    Without it no result that depends on the kind is kept on disk.
    """

    def kinds(self) -> Sequence[str]:
        """Every kind, in the order in which they are shown."""

    def overrides(self, kind: str) -> bool:
        """Whether this source's class replaces a built-in node of that name."""

    def schema(self, kind: str) -> Schema | None:
        """The schema as it is now (a class may change its choices between calls), or None.

        Raises what the class raises when it is asked for its inputs.
        """

    def describe(self, kind: str) -> dict[str, Any] | None:
        """The entry of `/object_info`, as the class tells it, or None."""

    def make(self, kind: str) -> Any:
        """A new instance, kept by the engine per (node id, kind) while the node stays in consecutive prompts."""

    def function(self, kind: str, instance: Any) -> Callable[..., Any]:
        """What one mapped call calls, with inputs and hidden inputs by keyword."""

    def companion(self, kind: str, name: CompanionName, instance: Any | None) -> Callable[..., Any] | None:
        """The companion, called with the keywords that its signature names, or None when the class has none."""
