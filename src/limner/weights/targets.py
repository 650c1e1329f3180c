"""Tensors of one layout told in the names of another: which tensor, or which part of one, a name stands for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from torch import Tensor

from limner.errors import BadInput
from limner.weights.header import CheckpointHeader
from limner.weights.lazy import LazyTensor


def swap_halves(tensor: Tensor) -> Tensor:
    """The second half of the rows, then the first: diffusers' final norms give scale before shift."""
    return tensor.roll(tensor.shape[0] // 2, 0)


@dataclass(frozen=True)
class Part:
    """Rows start … start + length of a tensor, or all of it where length is None.

    swapped: the other layout has the two halves the other way round.
    """

    name: str
    start: int = 0
    length: int | None = None
    swapped: bool = False


Target: TypeAlias = str | Part


def patch_target(target: Target, prefix: str) -> object:
    """A target as patches name it: the key, or (key, (axis, start, length)[, function])."""
    if isinstance(target, str):
        return prefix + target
    where = None if target.length is None else (0, target.start, target.length)
    return (prefix + target.name, where, swap_halves) if target.swapped else (prefix + target.name, where)


def renamed(header: CheckpointHeader, targets: Mapping[str, Target]) -> CheckpointHeader:
    """A header in the names of `targets`' values; names that it does not know are kept as they are.

    Parts of one tensor are put together when it is read. Raises BadInput where a part is missing.
    """
    tensors: dict[str, LazyTensor] = {}
    parts: dict[str, list[tuple[Part, LazyTensor]]] = defaultdict(list)
    for name, entry in header.tensors.items():
        target = targets.get(name, name)
        if isinstance(target, str):
            tensors[target] = entry
        else:
            parts[target.name].append((target, entry))
    for name, several in parts.items():
        several.sort(key=lambda one: one[0].start)
        ends = [part.start + entry.shape[0] for part, entry in several]
        if [part.start for part, _ in several] != [0, *ends[:-1]]:
            raise BadInput(
                f"{header.path.name}: a part of {name} is missing.",
                why=f"Of {ends[-1]} rows only {sum(entry.shape[0] for _, entry in several)} are there.",
                do="The file is incomplete; get a complete one.",
            )
        tensors[name] = LazyTensor.cat([entry.swapped() if part.swapped else entry for part, entry in several])
    return replace(header, tensors=tensors)
