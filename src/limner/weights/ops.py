"""The operations networks are built from: torch's layers, whose parameters follow the dtype of what flows in.

A checkpoint is kept in the dtype it is loaded with; the activations decide the dtype of the computation. Each layer
casts its parameters on the way in when the two differ, so a float16 file can run in float32 without a second copy of
the model. There is no state on the classes: two models with different dtypes run side by side.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class HasWeight(Protocol):
    """A layer with a weight and perhaps a bias."""

    weight: Tensor
    bias: Tensor | None


def cast(parameter: Tensor | None, like: Tensor) -> Tensor | None:
    """The parameter in the dtype of `like`; itself when that is its dtype already."""
    if parameter is None or parameter.dtype == like.dtype:
        return parameter
    return parameter.to(like.dtype)


class Linear(nn.Linear):
    """x @ weightᵀ + bias, computed in x's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, in) → (…, out)."""
        return F.linear(x, cast(self.weight, x), cast(self.bias, x))  # type: ignore[arg-type]


class Conv1d(nn.Conv1d):
    """One-dimensional convolution, computed in x's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, in, length) → (batch, out, length')."""
        return self._conv_forward(x, cast(self.weight, x), cast(self.bias, x))  # type: ignore[arg-type,no-any-return]


class Conv2d(nn.Conv2d):
    """Two-dimensional convolution, computed in x's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, in, height, width) → (batch, out, height', width')."""
        return self._conv_forward(x, cast(self.weight, x), cast(self.bias, x))  # type: ignore[arg-type,no-any-return]


class Conv3d(nn.Conv3d):
    """Three-dimensional convolution, computed in x's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, in, frames, height, width) → (batch, out, frames', height', width')."""
        return self._conv_forward(x, cast(self.weight, x), cast(self.bias, x))  # type: ignore[arg-type,no-any-return]


class GroupNorm(nn.GroupNorm):
    """Group normalization, computed in x's dtype. Wu & He 2018."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, …), normalised over each group."""
        return F.group_norm(x, self.num_groups, cast(self.weight, x), cast(self.bias, x), self.eps)


class LayerNorm(nn.LayerNorm):
    """Layer normalization, computed in x's dtype. Ba et al. 2016."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, width), normalised over the last axes."""
        return F.layer_norm(x, self.normalized_shape, cast(self.weight, x), cast(self.bias, x), self.eps)


class RMSNorm(nn.RMSNorm):
    """Root-mean-square normalization, computed in x's dtype. Zhang & Sennrich 2019."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, width), scaled to unit mean square over the last axes."""
        return F.rms_norm(x, list(self.normalized_shape), cast(self.weight, x), self.eps)


class Embedding(nn.Embedding):
    """A table of vectors; `dtype` chooses that of the result, since ids carry none."""

    def forward(self, ids: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """ids: (…) integers → (…, width)."""
        found = super().forward(ids)
        return found if dtype is None else found.to(dtype)
