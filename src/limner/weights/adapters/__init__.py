"""Weight adapters, one kind a file: each recognises its tensors in a LoRA file and says how a weight changes.

The folder is the registry: every module here with an `ADAPTER` is tried, by `match`, on each target of a file.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Protocol

from torch import Tensor

from limner.weights.header import CheckpointHeader

__all__ = ["Adapter", "AdapterTensors", "kinds", "match"]


class AdapterKind(Protocol):
    """What a module of this folder offers as `ADAPTER`."""

    def match(self, tensors: AdapterTensors) -> dict[str, Adapter]:
        """The adapters of one target by part, "weight" or "bias"; empty when the file has none of this kind."""


class Adapter(ABC):
    """A change of one weight, as a frozen value. `identity` names its numbers, for digests.

    shape: the larger one that the weight gets first, where the change is of such a one.
    """

    identity: str
    shape: tuple[int, ...] | None = None

    @abstractmethod
    def patched(self, weight: Tensor, strength: float) -> Tensor:
        """The changed weight. weight: float32, any shape; not written to. Raises ValueError when the shapes differ."""


@dataclass(frozen=True)
class AdapterTensors:
    """The tensors of one target in a LoRA file, by the rest of their names; remembers which were taken.

    target: the name before the suffix, `lora_unet_…_to_q`. taken: names used so far in the whole file.
    """

    header: CheckpointHeader
    target: str
    taken: set[str] = field(default_factory=set)

    def has(self, suffix: str) -> bool:
        """Whether the file has this tensor for the target."""
        return self.target + suffix in self.header

    def take(self, suffix: str) -> Tensor | None:
        """The tensor, or None; it counts as used from now on."""
        name = self.target + suffix
        if name not in self.header:
            return None
        self.taken.add(name)
        return self.header.tensor(name)

    def number(self, suffix: str) -> float | None:
        """A tensor of one number."""
        tensor = self.take(suffix)
        return None if tensor is None else float(tensor.item())

    @property
    def identity(self) -> str:
        """Names these numbers: the file and the target."""
        return f"{self.header.identity}/{self.target}"


@cache
def kinds() -> Mapping[str, AdapterKind]:
    """Every adapter kind of this folder by module name."""
    modules = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return {module.__name__.rpartition(".")[2]: module.ADAPTER for module in modules}


def match(tensors: AdapterTensors) -> dict[str, Adapter]:
    """The adapters that a file holds for one target: of its weight (key "weight") and its bias (key "bias")."""
    found: dict[str, Adapter] = {}
    for kind in kinds().values():
        found |= kind.match(tensors)
    return found
