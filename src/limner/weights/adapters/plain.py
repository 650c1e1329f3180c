"""Whole differences and replacements: `.diff`, `.diff_b`, `.w_norm`, `.b_norm`, `.set_weight`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limner.weights.adapters import Adapter, AdapterTensors


@dataclass(frozen=True, eq=False)
class Difference(Adapter):
    """W + strength · D."""

    identity: str
    difference: Tensor

    @classmethod
    def match(cls, tensors: AdapterTensors) -> dict[str, Adapter]:
        """The differences and replacements that the file has for one target."""
        found: dict[str, Adapter] = {}
        for suffix, part in ((".w_norm", "weight"), (".b_norm", "bias"), (".diff", "weight"), (".diff_b", "bias")):
            if (difference := tensors.take(suffix)) is not None:
                found[part] = cls(tensors.identity + suffix, difference)
        if (weight := tensors.take(".set_weight")) is not None:
            found["weight"] = Replacement(tensors.identity + ".set_weight", weight)
        return found

    def patched(self, weight: Tensor, strength: float) -> Tensor:
        """weight + strength · difference."""
        if self.difference.shape != weight.shape:
            raise ValueError(f"its difference is {tuple(self.difference.shape)}, the weight {tuple(weight.shape)}")
        return weight + strength * self.difference.to(weight.device, torch.float32)


@dataclass(frozen=True, eq=False)
class Replacement(Adapter):
    """Another weight in place of the old one, whatever the strength."""

    identity: str
    weight: Tensor

    def patched(self, weight: Tensor, strength: float) -> Tensor:  # noqa: ARG002
        """The new weight."""
        return self.weight.to(weight.device, torch.float32)


ADAPTER = Difference
