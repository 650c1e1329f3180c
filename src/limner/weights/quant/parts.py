"""What a layout makes of a tensor: its numbers, the tensors that give them meaning, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, columns) of a tensor seen as a matrix: the first axis, and all others as one."""
    if len(shape) < 2:
        return 1, prod(shape)
    return shape[0], prod(shape[1:])


@dataclass(frozen=True, eq=False)
class Parts:
    """A tensor in a layout.

    numbers: what is stored for each weight; its shape is the layout's affair. shape, dtype: of the tensor that they
    stand for. tensors: scales and the like, by name. plain: what is no tensor, hashable.
    """

    numbers: Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    plain: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """The rows of the tensor seen as a matrix."""
        return matrix_shape(self.shape)[0]

    @property
    def columns(self) -> int:
        """The columns of the tensor seen as a matrix."""
        return matrix_shape(self.shape)[1]

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is kept."""
        return sum(one.numel() * one.element_size() for one in self.all_tensors().values())

    def all_tensors(self) -> dict[str, Tensor]:
        """Every tensor by name; that of the numbers is "numbers"."""
        return {"numbers": self.numbers, **self.tensors}

    def map(self, change: Callable[[Tensor], Tensor]) -> Parts:
        """The same with every tensor changed."""
        return replace(
            self, numbers=change(self.numbers), tensors={name: change(one) for name, one in self.tensors.items()}
        )

    def with_tensor(self, name: str, value: Tensor | None) -> Parts:
        """The same with one more tensor; None takes it away."""
        others = {key: one for key, one in self.tensors.items() if key != name}
        return replace(self, tensors=others if value is None else {**others, name: value})
