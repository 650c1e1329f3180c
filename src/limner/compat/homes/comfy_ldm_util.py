"""comfy.ldm.util and common_dit: small helpers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from limner.compat.homes.comfy_float import rms_norm

__all__ = ["rms_norm"]


def exists(x: Any) -> bool:
    """Whether it is not None."""
    return x is not None


def default(val: Any, d: Any) -> Any:
    """The value, or what stands in for None."""
    if val is not None:
        return val
    return d() if isinstance(d, Callable) else d  # type: ignore[arg-type]


def mean_flat(tensor: Tensor) -> Tensor:
    """The mean over all axes but the first."""
    return tensor.mean(dim=list(range(1, tensor.ndim)))


def count_params(model: nn.Module, verbose: bool = False) -> int:
    """How many numbers a network's parameters hold."""
    del verbose
    return sum(parameter.numel() for parameter in model.parameters())


def ismap(x: Any) -> bool:
    """Whether it is a batch of feature maps."""
    return isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] > 3


def isimage(x: Any) -> bool:
    """Whether it is a batch of pictures."""
    return isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] in (1, 3)


def pad_to_patch_size(img: Tensor, patch_size: Sequence[int] = (2, 2), padding_mode: str = "circular") -> Tensor:
    """A latent made larger at its ends so that patches fit."""
    pad: tuple[int, ...] = ()
    for axis in range(img.ndim - 2):
        pad = (0, (patch_size[axis] - img.shape[axis + 2] % patch_size[axis]) % patch_size[axis], *pad)
    return F.pad(img, pad, mode=padding_mode)


ARRAY = np.ndarray
