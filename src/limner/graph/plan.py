"""The plan of a run: what each node needs, what it is signed with, and the order in which ready nodes are taken."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from limner.graph.prompt import Link, NodeCall, Prompt
from limner.graph.registry import Registry
from limner.graph.signatures import Fingerprint, Signer


@dataclass(frozen=True)
class Plan:
    """A prompt ready to run: its output nodes and every node's signature."""

    prompt: Prompt
    outputs: tuple[str, ...]
    signatures: Mapping[str, bytes]
    signer: Signer

    def order(self) -> list[str]:
        """The nodes that the outputs need, in an order in which each comes after what it needs, nothing cached."""
        schedule = Schedule(self.prompt, self.outputs)
        found: list[str] = []
        while (node := schedule.next()) is not None:
            found.append(node)
            schedule.done(node)
        return found


def plan(
    prompt: Prompt,
    outputs: Iterable[str],
    registry: Registry | None = None,
    fingerprint: Fingerprint | None = None,
) -> Plan:
    """Sign every node of a prompt. Linear in nodes and links.

    fingerprint: asks `changes_when` companions; without it they do not take part.
    """
    signer = Signer(prompt, registry, fingerprint)
    for node in prompt:
        signer.sign(node)
    return Plan(prompt, tuple(outputs), signer.signatures, signer)


Strong = Callable[[str, NodeCall], Sequence[Link]]
"""The links of a node that must be there before it is entered."""


def all_links(node: str, call: NodeCall) -> list[Link]:  # noqa: ARG001 - one form of Strong
    """Every link of a call."""
    return [value for value in call.inputs.values() if type(value) is Link]


def nothing_cached(node: str) -> None:
    """Every node is still to run."""


def never_gone(node: str) -> bool:  # noqa: ARG001 - one form of Schedule's `gone`
    """Results stay."""
    return False


class Schedule:
    """Which node next: those that wait for nothing, nearest to an output first (rules X1 to X4).

    strong: the links that block a node; lazy ones are left out and added by `require` once they are asked for. It is
    asked once for each node that is scheduled to run.
    cached: whether a node's result is there already; it then blocks nobody and is not scheduled, unless it is an
    output. eager: whether a node is to be begun as early as an output, because others run while it waits.
    gone: whether the result of a node that is done was let go since; it runs again when it is required.
    The prompt may grow between calls; `require` takes new nodes in.
    """

    def __init__(
        self,
        prompt: Prompt,
        outputs: Iterable[str],
        strong: Strong = all_links,
        cached: Callable[[str], Any] = nothing_cached,
        eager: Callable[[NodeCall], bool] | None = None,
        gone: Callable[[str], bool] = never_gone,
    ) -> None:
        self._prompt = prompt
        self._strong = strong
        self._cached = cached
        self._eager = eager
        self._gone = gone
        self._outputs = set(outputs)
        self._place: dict[str, int] = {}
        self._missing: dict[str, set[str]] = {}
        self._consumers: dict[str, list[str]] = {}
        self._done: set[str] = set()
        self._ready: list[tuple[int, int, str]] = []
        self._count = count()
        self._new: list[str] = []
        self._rank: dict[str, int] = {}
        self.add(*outputs)

    def add(self, *roots: str, asking: str | None = None) -> None:
        """Schedule these nodes and what they need, depth first. asking: the node that they are for."""
        for root in roots:
            stack = [root]
            while stack:
                node = stack.pop()
                if node in self._place:
                    continue
                self._place[node] = next(self._count)
                self._new.append(node)
                missing = self._missing[node] = set()
                if node in self._outputs and self._cached(node) is not None:
                    continue
                for link in self._strong(node, self._prompt[node]):
                    stack.extend(self._need(node, link.node, missing))
        self._settle(asking)

    def require(self, node: str, upstream: Iterable[str], outputs: Iterable[str] = ()) -> bool:
        """Block a node that was taken until these others are done, then give it out again.

        outputs: those of them that are outputs themselves. Returns False, and blocks nothing, when all are there.
        """
        self._outputs.update(outputs)
        missing = self._missing[node]
        wanted = [one for other in upstream for one in self._need(node, other, missing)]
        if not missing:
            return False
        self.add(*wanted, asking=node)
        return True

    def resume(self, node: str) -> None:
        """Give a node out again that was taken and could not be finished."""
        self._push(node)

    def next(self) -> str | None:
        """The next node to run, or None when none is ready."""
        return heapq.heappop(self._ready)[2] if self._ready else None

    def done(self, node: str) -> None:
        """The node has its result: what waited only for it is ready."""
        self._done.add(node)
        for consumer in self._consumers.pop(node, ()):
            missing = self._missing[consumer]
            missing.discard(node)
            if not missing:
                self._push(consumer)

    def unfinished(self) -> list[str]:
        """The scheduled nodes that have no result yet."""
        return [node for node in self._place if node not in self._done]

    def cycle(self) -> list[str]:
        """Nodes that wait for each other in a ring, in order; [] when none do."""
        left = {node: self._missing[node] for node in self.unfinished() if self._missing.get(node)}
        seen: dict[str, None] = {}
        node = next(iter(left), None)
        while node is not None and node not in seen:
            seen[node] = None
            node = next((one for one in left[node] if one in left), None)
        if node is None:
            return []
        ring = list(seen)
        return ring[ring.index(node) :]

    def _need(self, node: str, upstream: str, missing: set[str]) -> list[str]:
        """Note that a node waits for another. Returns that other if it must be scheduled first."""
        if upstream in missing:
            return []
        if upstream in self._done:
            if not self._gone(upstream):
                return []
            self._done.discard(upstream)  # its result was let go since: it runs again
            del self._place[upstream]
        elif upstream not in self._place and self._cached(upstream) is not None:
            return []
        missing.add(upstream)
        self._consumers.setdefault(upstream, []).append(node)
        return [] if upstream in self._place else [upstream]

    def _settle(self, asking: str | None) -> None:
        """Rank the new nodes by their distance from an output, and give out those that wait for nothing (rule X3)."""
        new, self._new = self._new, []
        rank = self._rank
        frontier = [node for node in new if node in self._outputs]
        rank.update(dict.fromkeys(frontier, 0))
        if asking is not None and rank.get(asking) == 0:
            frontier.append(asking)
        for distance in (1, 2):
            frontier = [one for node in frontier for one in self._missing[node] if rank.get(one, 3) > distance]
            rank.update(dict.fromkeys(frontier, distance))
            if asking is not None and rank.get(asking) == distance:
                frontier.append(asking)
        for node in new:
            if not self._missing[node]:
                self._push(node)

    def _push(self, node: str) -> None:
        first = self._eager is not None and self._eager(self._prompt[node])
        heapq.heappush(self._ready, (0 if first else self._rank.get(node, 3), self._place[node], node))
