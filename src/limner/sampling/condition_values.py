"""What a prepared condition holds: values that know how to follow an area, and how to be batched with others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Area = tuple[int, ...]
"""(sizes…, offsets…) in latent cells, one of each per spatial axis."""


class ConditionValue(Protocol):
    """One argument of the network."""

    def process_cond(self, batch_size: int, area: Area | None) -> ConditionValue:
        """For this many latents, over this area of them."""
        ...

    def can_concat(self, other: Any) -> bool:
        """Whether both fit in one batch."""
        ...

    def concat(self, others: Sequence[Any]) -> Any:
        """The argument for one batch: this value, then the others."""
        ...


def repeat_to_batch(tensor: Tensor, batch_size: int, dim: int = 0) -> Tensor:
    """Cut to, or tiled up to, `batch_size` along `dim`."""
    length = tensor.shape[dim]
    if length > batch_size:
        return tensor.narrow(dim, 0, batch_size)
    if length < batch_size:
        repeats = [1] * tensor.ndim
        repeats[dim] = math.ceil(batch_size / length)
        return tensor.repeat(repeats).narrow(dim, 0, batch_size)
    return tensor


class RegularCond:
    """A tensor with a batch axis; equal shapes are batched."""

    def __init__(self, cond: Tensor) -> None:
        self.cond = cond

    def process_cond(self, batch_size: int, area: Area | None) -> RegularCond:  # noqa: ARG002
        """Repeated to the batch."""
        return type(self)(repeat_to_batch(self.cond, batch_size))

    def can_concat(self, other: RegularCond) -> bool:
        """Equal shapes."""
        return self.cond.shape == other.cond.shape

    def concat(self, others: Sequence[RegularCond]) -> Tensor:
        """One after the other."""
        return torch.cat([self.cond, *(other.cond for other in others)])


class NoiseShapeCond(RegularCond):
    """A tensor over the latent's cells, which follows the area."""

    def process_cond(self, batch_size: int, area: Area | None) -> NoiseShapeCond:
        """Cut to the area, repeated to the batch."""
        data = self.cond
        if area is not None:
            axes = len(area) // 2
            for axis in range(axes):
                data = data.narrow(axis + 2, area[axes + axis], area[axis])
        return type(self)(repeat_to_batch(data, batch_size))


class CrossAttnCond(RegularCond):
    """Text tokens (B, L, W). Different lengths are repeated to their least common multiple, which changes nothing."""

    def can_concat(self, other: RegularCond) -> bool:
        """Equal but for a length that needs at most four repeats."""
        mine, others = self.cond.shape, other.cond.shape
        if mine == others:
            return True
        if mine[0] != others[0] or mine[2] != others[2]:
            return False
        return math.lcm(mine[1], others[1]) // min(mine[1], others[1]) <= 4

    def concat(self, others: Sequence[RegularCond]) -> Tensor:
        """All repeated to one length."""
        parts = [self.cond, *(other.cond for other in others)]
        length = math.lcm(*(part.shape[1] for part in parts))
        return torch.cat([part.repeat(1, length // part.shape[1], 1) for part in parts])


class ConstantCond:
    """A value that is the same for the whole batch."""

    def __init__(self, cond: Any) -> None:
        self.cond = cond

    def process_cond(self, batch_size: int, area: Area | None) -> ConstantCond:  # noqa: ARG002
        """Itself."""
        return self

    def can_concat(self, other: ConstantCond) -> bool:
        """Equal values."""
        return bool(self.cond == other.cond)

    def concat(self, others: Sequence[ConstantCond]) -> Any:  # noqa: ARG002
        """The value."""
        return self.cond


def as_condition_value(name: str, value: Any, cells: Sequence[int]) -> ConditionValue:
    """A model's argument as a condition value: by its kind, its name, or whether it lies over the latent's cells."""
    if hasattr(value, "process_cond"):
        kept: ConditionValue = value
        return kept
    if not isinstance(value, Tensor):
        return ConstantCond(value)
    if name in ("c_crossattn", "crossattn_controlnet"):
        return CrossAttnCond(value)
    over_cells = value.ndim == len(cells) + 2 and tuple(value.shape[2:]) == tuple(cells)
    return NoiseShapeCond(value) if over_cells else RegularCond(value)


class ListCond:
    """A list of tensors, batched one by one."""

    def __init__(self, cond: list[Tensor]) -> None:
        self.cond = cond

    def process_cond(self, batch_size: int, area: Area | None) -> ListCond:  # noqa: ARG002
        """Each repeated to the batch."""
        return type(self)([repeat_to_batch(tensor, batch_size) for tensor in self.cond])

    def can_concat(self, other: ListCond) -> bool:
        """Equal shapes throughout."""
        return [tensor.shape for tensor in self.cond] == [tensor.shape for tensor in other.cond]

    def concat(self, others: Sequence[ListCond]) -> list[Tensor]:
        """Element by element."""
        return [torch.cat(parts) for parts in zip(self.cond, *(other.cond for other in others), strict=True)]
