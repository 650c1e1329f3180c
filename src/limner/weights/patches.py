"""Changes of weights, as an immutable value: what a LoRA loader adds, and what is applied when a network is loaded."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.weights.adapters import Adapter, AdapterTensors, match
from limner.weights.adapters.plain import Difference, Replacement
from limner.weights.header import CheckpointHeader
from limner.weights.quant.tensor import QuantizedTensor, as_floats, is_kept, requantize

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Patch:
    """One change of one weight.

    key: the weight's name with its component before it, `diffusion_model.out.2.weight`. strength: of the change;
    strength_model: of what it is added to. offset: (axis, start, length), the part of the weight that changes.
    function: applied to the change of that part before it is written.
    """

    key: str
    adapter: Adapter
    strength: float = 1.0
    strength_model: float = 1.0
    offset: tuple[int, int, int] | None = None
    function: Callable[[Tensor], Tensor] | None = None

    def apply(self, weight: Tensor) -> Tensor:
        """The changed weight; float32, the old one is not written to."""
        if self.offset is not None:
            whole = weight.clone()
            part = whole.narrow(*self.offset)
            part.copy_(self._apply(part.clone()))
            return whole
        return self._apply(weight)

    def _apply(self, weight: Tensor) -> Tensor:
        if self.strength_model != 1.0:
            weight = weight * self.strength_model
        if self.strength == 0.0:
            return weight
        changed = self.adapter.patched(weight, self.strength)
        return changed if self.function is None else weight + self.function(changed - weight)


@dataclass(frozen=True)
class Patches:
    """Patches in the order in which they are applied. Adding returns a new value."""

    entries: tuple[Patch, ...] = ()

    @classmethod
    def of(cls, value: Patches | Mapping[str, Iterable[Sequence[Any]]]) -> Patches:
        """Patches, or a mapping of them as packs write it: name → [(strength, change, strength of the weight, …)]."""
        if isinstance(value, Patches):
            return value
        return cls(
            tuple(
                Patch(key, as_adapter(one[1]), one[0], one[2], *one[3:5])
                for key, several in value.items()
                for one in several
            )
        )

    def __add__(self, other: Patches) -> Patches:
        return Patches(self.entries + other.entries)

    def __bool__(self) -> bool:
        return bool(self.entries)

    @cached_property
    def by_key(self) -> Mapping[str, tuple[Patch, ...]]:
        """The patches of each weight, in order."""
        found: dict[str, tuple[Patch, ...]] = {}
        for patch in self.entries:
            found[patch.key] = (*found.get(patch.key, ()), patch)
        return found

    @cached_property
    def digest(self) -> str:
        """Equal for equal patches: a network loaded with the same digest need not be loaded again."""
        if not self.entries:
            return ""
        digest = hashlib.sha256()
        for patch in self.entries:
            function = "" if patch.function is None else f"{patch.function!r}"
            parts = (patch.key, patch.adapter.identity, patch.strength, patch.strength_model, patch.offset, function)
            digest.update(repr(parts).encode())
        return digest.hexdigest()[:32]

    # As packs read them: name → [(strength, change, strength of the weight, offset, function)], in order.

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_key)

    def __len__(self) -> int:
        return len(self.by_key)

    def __contains__(self, key: object) -> bool:
        return key in self.by_key

    def __getitem__(self, key: str) -> list[tuple[Any, ...]]:
        return [(one.strength, one.adapter, one.strength_model, one.offset, one.function) for one in self.by_key[key]]

    def get(self, key: str, default: Any = None) -> Any:
        """The patches of a weight, or the default."""
        return self[key] if key in self.by_key else default

    def keys(self) -> Iterator[str]:
        """The weights that have patches."""
        return iter(self)

    def items(self) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
        """Each weight with its patches."""
        return ((key, self[key]) for key in self)

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of those weights that become larger."""
        return self._shapes

    @cached_property
    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        growing = (patch for patch in self.entries if patch.strength and patch.offset is None)
        return {patch.key: patch.adapter.shape for patch in growing if patch.adapter.shape is not None}

    def key_digest(self, key: str) -> str:
        """The digest of one weight's patches alone."""
        return Patches(self.by_key.get(key, ())).digest

    def apply(self, key: str, weight: Tensor) -> Tensor:
        """The weight with all its patches, computed in float32; itself when it has none.

        A patch whose shape does not fit is left out with a warning: the picture is then as without that part.
        """
        return calculate_weight(self[key], as_floats(weight).to(torch.float32), key) if key in self else weight

    def apply_kept(self, key: str, weight: Tensor) -> Tensor:
        """The same, and what was quantized is quantized again, if its layout is written and its shape has not changed.

        It is rounded at random, for many changes are smaller than a step; for one key always alike.
        """
        changed = self.apply(key, weight)
        if key in self and isinstance(weight, QuantizedTensor) and is_kept(weight, tuple(changed.shape)):
            return requantize(weight, changed, seed_of(key))
        return changed


def seed_of(key: str) -> int:
    """What a weight is rounded by."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "little")


def calculate_weight(
    patches: Iterable[Sequence[Any]],
    weight: Tensor,
    key: str,
    intermediate_dtype: torch.dtype = torch.float32,
    original_weights: Any = None,
) -> Tensor:
    """A weight with patches as packs know them. It is called through this module, so that packs can replace it.

    patches: (strength, change, strength of the weight[, offset[, function]]). The weight is not written to.
    """
    del original_weights
    dtype = weight.dtype
    changed = weight.to(intermediate_dtype)
    for patch in patches:
        strength, change, strength_model, offset, function = (*patch, None, None)[:5]
        changed = _apply_if_fits(Patch(key, as_adapter(change), strength, strength_model, offset, function), changed)
    return changed.to(dtype)


def _apply_if_fits(patch: Patch, weight: Tensor) -> Tensor:
    try:
        return patch.apply(weight)
    except torch.OutOfMemoryError:  # a RuntimeError, but it says nothing of the patch
        raise
    except (ValueError, RuntimeError) as error:
        _log.warning("A patch of %s does not fit and was left out: %s", patch.key, error)
        return weight


@dataclass(frozen=True)
class AdapterFile:
    """What a LoRA file holds for a model: adapters by weight, and the names that belong to nothing in it."""

    adapters: Mapping[Any, Adapter]
    unused: tuple[str, ...]


def read_adapters(header: CheckpointHeader, key_map: Mapping[str, Any]) -> AdapterFile:
    """Match a LoRA file against the names that a model answers to.

    key_map: LoRA name without suffix → weight key, or (key, offset[, function]) for a part of one.
    """
    taken: set[str] = set()
    adapters: dict[Any, Adapter] = {}
    for name, target in key_map.items():
        found = match(AdapterTensors(header, name, taken))
        for part, adapter in found.items():
            if part == "weight":
                adapters[target] = adapter
            elif isinstance(target, str) and target.endswith(".weight"):
                adapters[target.removesuffix("weight") + part] = adapter
    return AdapterFile(adapters, tuple(name for name in header if name not in taken))


def as_adapter(value: Any) -> Adapter:
    """A patch value as packs give it: an adapter, a tensor in a tuple, or ("diff" | "set", (tensor, …)).

    Raises BadInput for a kind that is not known.
    """
    if isinstance(value, Adapter):
        return value
    if isinstance(value, tuple | list) and len(value) == 1 and isinstance(value[0], Tensor):
        return Difference(uuid.uuid4().hex, value[0])
    if isinstance(value, tuple | list) and len(value) == 2:
        kind, content = value
        if kind == "diff":
            return Difference(uuid.uuid4().hex, content[0])
        if kind == "set":
            return Replacement(uuid.uuid4().hex, content[0])
        raise BadInput(f"A weight patch of kind {kind!r} is not known.", why="Known are diff, set and adapters.")
    raise BadInput(f"A {type(value).__name__} is not a weight patch.", why="It must be an adapter or a (kind, value).")


def make_patches(
    patches: Mapping[Any, Any], strength: float, strength_model: float, keys: Collection[str]
) -> tuple[Patches, list[Any]]:
    """Patches for those targets whose weight is among `keys`, and these targets.

    patches: weight key, or (key, offset[, function]) → a value of `as_adapter`.
    """
    entries, used = [], []
    for target, value in patches.items():
        key, offset, function = target, None, None
        if not isinstance(target, str):
            key, offset = target[0], target[1]
            function = target[2] if len(target) > 2 else None
        if key in keys:
            used.append(target)
            entries.append(Patch(key, as_adapter(value), strength, strength_model, offset, function))
    return Patches(tuple(entries)), used
