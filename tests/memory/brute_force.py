"""The fewest bytes that can cross to a device for a list of requests: by trying everything, knowing the future.

It shares no code with the policy. Networks are numbers of equal chunks, which are as good as each other; so a state is
how many chunks of each network are on the device. A request may leave any number of its network's chunks out, which
then cross once a pass, and drop any chunks of any network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

INFINITE = 1 << 60


@dataclass(frozen=True)
class Step:
    """A request: which network, how many chunks of working memory, passes, and a number for its patches.

    Patches change every chunk; those that are on the device with others have to cross again.
    """

    network: int
    working: int = 0
    passes: int = 1
    patches: int = 0


@dataclass(frozen=True)
class State:
    """What is on the device: chunks of each network, and the patches that these have."""

    chunks: tuple[int, ...]
    patches: tuple[int, ...]


def fewest(sizes: Sequence[int], steps: Sequence[Step], capacity: int, buffer: int = 0) -> int:
    """Chunks that cross at least. sizes: chunks of each network. capacity: of the device, in chunks.

    buffer: chunks of the device that a pass takes in which any cross.

    Raises ValueError where a request cannot be served at all.
    """
    none = (0,) * len(sizes)
    costs = {State(none, none): 0}
    for step in steps:
        after: dict[State, int] = {}
        for state, cost in costs.items():
            for chosen, more in choices(sizes, step, capacity, buffer, state):
                if cost + more < after.get(chosen, INFINITE):
                    after[chosen] = cost + more
        if not after:
            raise ValueError(f"{step} cannot be served with {capacity} chunks")
        costs = after
    return min(costs.values())


def choices(sizes: Sequence[int], step: Step, capacity: int, buffer: int, state: State) -> Iterator[tuple[State, int]]:
    """The states that can follow, and the chunks that cross for each.

    Dropping is free and can always be done later, so of the other networks no more goes than has to.
    """
    own, whole = step.network, sizes[step.network]
    patches = tuple(step.patches if i == own else one for i, one in enumerate(state.patches))
    here = state.chunks[own] if state.patches[own] == step.patches else 0
    others = [i for i in range(len(sizes)) if i != own]
    for kept in range(whole + 1):
        taken = kept + step.working + (buffer if kept < whole else 0)
        need = taken + sum(state.chunks[i] for i in others) - capacity
        crossing = max(0, kept - here) + step.passes * (whole - kept)
        for going in _drops([state.chunks[i] for i in others], max(0, need)):
            left = dict(zip(others, going, strict=True)) | {own: -kept}
            chunks = tuple(-left[i] if i == own else state.chunks[i] - left[i] for i in range(len(sizes)))
            yield State(chunks, patches), crossing


def _drops(there: Sequence[int], need: int) -> Iterator[tuple[int, ...]]:
    """Every way to drop exactly `need` chunks of what is there; none where that is more than there is."""
    for going in product(*(range(min(one, need) + 1) for one in there)):
        if sum(going) == need:
            yield going
