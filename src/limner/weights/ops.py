"""The operations networks are built from: torch's layers, whose parameters follow the dtype of what flows in.

A checkpoint is kept in the dtype it is loaded with; the activations decide the dtype of the computation. Each layer
casts its parameters on the way in when the two differ, so a float16 file can run in float32 without a second copy of
the model. There is no state on the classes: two models with different dtypes run side by side.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.memory.streaming import Streamed
from limner.weights.quant.direct import multiplied_by_layout


class HasWeight(Protocol):
    """A layer with a weight and perhaps a bias."""

    weight: Tensor
    bias: Tensor | None


def cast(parameter: Tensor | None, like: Tensor) -> Tensor | None:
    """The parameter in the dtype of `like`; itself when that is its dtype already."""
    if parameter is None or parameter.dtype == like.dtype:
        return parameter
    return parameter.to(like.dtype)


class Streams:
    """A layer whose weights need not stay on the device.

    streams: the names of its weights in the order in which it takes them. streamed: brings them; None where they stay.
    """

    streams: tuple[str, ...] = ("weight", "bias")
    streamed: Streamed | None = None

    def reset_parameters(self) -> None:
        """Random numbers to begin with, but none where there is no storage: torch takes seconds to make nothing."""
        weight: Tensor | None = getattr(self, "weight", None)
        if weight is None or not weight.is_meta:
            super().reset_parameters()  # type: ignore[misc]


def arrived(layer: Any, like: Tensor) -> tuple[Any, ...]:
    """A layer's weights where `like` is and in its dtype; None for a bias that it does not have."""
    streamed: Streamed | None = layer.streamed
    if streamed is None:
        return cast(layer.weight, like), cast(layer.bias, like)
    return streamed.arrive(like.dtype)


def factors(layer: Any, like: Tensor) -> tuple[Any, ...]:
    """`arrived` for a product. A quantized weight keeps its dtype: its layout computes in that of `like` anyway, and
    to say another takes torch 0.13 ms, nearly as long as a small product.
    """
    if layer.streamed is None and multiplied_by_layout(layer.weight, like):
        return layer.weight, cast(layer.bias, like)
    return arrived(layer, like)


class Linear(Streams, nn.Linear):
    """x @ weightᵀ + bias, computed in x's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, in) → (…, out)."""
        return F.linear(x, *factors(self, x))


class Conv1d(Streams, nn.Conv1d):
    """One-dimensional convolution, computed in x's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, in, length) → (batch, out, length')."""
        return self._conv_forward(x, *factors(self, x))  # type: ignore[no-any-return]


class Conv2d(Streams, nn.Conv2d):
    """Two-dimensional convolution, computed in x's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, in, height, width) → (batch, out, height', width')."""
        return self._conv_forward(x, *factors(self, x))  # type: ignore[no-any-return]


class Conv3d(Streams, nn.Conv3d):
    """Three-dimensional convolution, computed in x's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, in, frames, height, width) → (batch, out, frames', height', width')."""
        return self._conv_forward(x, *factors(self, x))  # type: ignore[no-any-return]


class GroupNorm(Streams, nn.GroupNorm):
    """Group normalization, computed in x's dtype. Wu & He 2018."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, …), normalised over each group."""
        weight, bias = arrived(self, x)
        return F.group_norm(x, self.num_groups, weight, bias, self.eps)


class LayerNorm(Streams, nn.LayerNorm):
    """Layer normalization, computed in x's dtype. Ba et al. 2016."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, width), normalised over the last axes."""
        weight, bias = arrived(self, x)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class RMSNorm(Streams, nn.RMSNorm):
    """Root-mean-square normalization, computed in x's dtype. Zhang & Sennrich 2019."""

    bias = None

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, width), scaled to unit mean square over the last axes."""
        return F.rms_norm(x, list(self.normalized_shape), arrived(self, x)[0], self.eps)


class Embedding(Streams, nn.Embedding):
    """A table of vectors. Where it does not stay on the device, only the rows asked for are brought.

    `dtype` chooses that of the result, since ids carry none.
    """

    def forward(self, ids: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """ids: (…) integers → (…, width)."""
        found = super().forward(ids) if self.streamed is None else self.streamed.rows(ids)
        return found if dtype is None else found.to(dtype)
