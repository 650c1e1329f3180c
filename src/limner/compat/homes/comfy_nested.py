"""comfy.nested_tensor: several latents of different shapes that go through sampling as one."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class NestedTensor:
    """Tensors side by side; arithmetic is done on each. Shape, dtype and device are those of the first."""

    is_nested = True

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)

    def _each(self, function: Callable[[Tensor], Any]) -> NestedTensor:
        return NestedTensor([function(tensor) for tensor in self.tensors])

    def _with(self, other: Any, function: Callable[[Any, Any], Any]) -> NestedTensor:
        others = other.tensors if isinstance(other, NestedTensor) else [other] * len(self.tensors)
        return NestedTensor([function(one, two) for one, two in zip(self.tensors, others, strict=False)])

    def __add__(self, other: Any) -> NestedTensor:
        return self._with(other, operator.add)

    def __sub__(self, other: Any) -> NestedTensor:
        return self._with(other, operator.sub)

    def __mul__(self, other: Any) -> NestedTensor:
        return self._with(other, operator.mul)

    __rmul__ = __mul__
    __radd__ = __add__

    def __truediv__(self, other: Any) -> NestedTensor:
        return self._with(other, operator.truediv)

    def __getitem__(self, index: Any) -> NestedTensor:
        return self._each(lambda tensor: tensor[index])

    def unbind(self) -> list[Tensor]:
        """The tensors."""
        return self.tensors

    def to(self, *args: Any, **kwargs: Any) -> NestedTensor:
        """Each in a dtype or on a device."""
        return self._each(lambda tensor: tensor.to(*args, **kwargs))

    def float(self) -> NestedTensor:
        """Each in float32."""
        return self._each(lambda tensor: tensor.float())

    def new_ones(self, *args: Any, **kwargs: Any) -> Tensor:
        """Ones in the first's dtype."""
        return self.tensors[0].new_ones(*args, **kwargs)

    def chunk(self, *args: Any, **kwargs: Any) -> list[NestedTensor]:
        """Each cut alike."""
        return [
            NestedTensor(parts)
            for parts in zip(*(tensor.chunk(*args, **kwargs) for tensor in self.tensors), strict=True)
        ]

    def size(self, *args: Any) -> Any:
        """Of the first."""
        return self.tensors[0].size(*args)

    @property
    def shape(self) -> torch.Size:
        """Of the first."""
        return self.tensors[0].shape

    @property
    def ndim(self) -> int:
        """The most axes."""
        return max(tensor.ndim for tensor in self.tensors)

    @property
    def device(self) -> torch.device:
        """Of the first."""
        return self.tensors[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Of the first."""
        return self.tensors[0].dtype

    @property
    def layout(self) -> torch.layout:
        """Of the first."""
        return self.tensors[0].layout


def cat_nested(tensors: Sequence[NestedTensor], *args: Any, **kwargs: Any) -> NestedTensor:
    """The first of each joined, the second of each joined …"""
    return NestedTensor(
        [torch.cat(parts, *args, **kwargs) for parts in zip(*(one.tensors for one in tensors), strict=True)]
    )
