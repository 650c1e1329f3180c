"""Models made of two: weighted sums of weights, as patches of the first that read the second when loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from limner.models.clip import CLIP
from limner.models.model import Model
from limner.weights.adapters import Adapter
from limner.weights.source import OtherWeight

Merged = TypeVar("Merged", Model, CLIP)
DIFFUSION = "diffusion_model."
NOT_MERGED = (".position_ids", ".logit_scale")


def merge_models(first: Model, second: Model, ratio: Callable[[str], float]) -> Model:
    """W1 · ratio + W2 · (1 - ratio) for each weight that both have; all else is the first's.

    ratio: of a weight's name without the component before it.
    """
    merged = first.clone()
    groups: dict[float, dict[str, Adapter]] = {}
    for key, patch in second.get_key_patches(DIFFUSION).items():
        groups.setdefault(ratio(key.removeprefix(DIFFUSION)), {})[key] = patch
    for part, patches in groups.items():
        merged.add_patches(patches, 1.0 - part, part)
    return merged


def combine(first: Merged, second: Merged, second_strength: float, first_strength: float) -> Merged:
    """W1 · first_strength + W2 · second_strength for each weight that both have."""
    patches = second.get_key_patches(DIFFUSION) if isinstance(second, Model) else second.get_key_patches()
    combined: Merged = first.clone()
    kept = {key: patch for key, patch in patches.items() if not key.endswith(NOT_MERGED)}
    combined.add_patches(kept, second_strength, first_strength)
    return combined


def by_longest_prefix(ratios: Mapping[str, float]) -> Callable[[str], float]:
    """The ratio with the longest name that a weight's name begins with; the first of all where none does."""
    names = sorted(ratios, key=len, reverse=True)
    otherwise = next(iter(ratios.values()))

    def ratio(name: str) -> float:
        return next((ratios[prefix] for prefix in names if name.startswith(prefix)), otherwise)

    return ratio


@dataclass(frozen=True, eq=False)
class Towards(OtherWeight):
    """A weight moved towards another network's patched weight: strength 1 is all the way."""

    def patched(self, weight: Tensor, strength: float) -> Tensor:
        """weight + strength · (the other's - weight)."""
        return torch.lerp(weight, super().patched(torch.zeros_like(weight), 1.0), strength)


def towards(target: Model | CLIP) -> dict[str, Adapter]:
    """Patches that move another model's weights to this one's."""
    source = target.source
    digest = f"{source.identity}/towards/{source.patches_digest}"
    return {
        source.prefix + name: Towards(f"{digest}/{name}", source, name)
        for name in source.tensors
        if not name.endswith(NOT_MERGED)
    }
