"""Normalise, activate, add: with as few tensors alive as the result needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def normed_silu(norm: nn.Module, x: Tensor) -> Tensor:
    """silu(norm(x)), written over what the norm made; x is left as it is."""
    normed: Tensor = norm(x)
    # a norm that a pack has replaced may hand x itself back
    return F.silu(normed, inplace=normed is not x and not torch.is_grad_enabled())


def add_to(change: Tensor, x: Tensor) -> Tensor:
    """x + change, written over `change`, which must be the caller's own."""
    return change + x if torch.is_grad_enabled() else change.add_(x)
