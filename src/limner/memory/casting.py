"""Tensors brought to a dtype and a device, and how large things are: what layers of packs are built with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def cast_to(
    weight: Tensor,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    non_blocking: bool = False,
    copy: bool = False,
    stream: object = None,
) -> Tensor:
    """The tensor in this dtype on this device; itself where it is so already and no copy is asked for.

    stream: of the copy; there is one stream here, so it is not used.
    """
    del stream
    if device is None:
        device = weight.device
    return weight.to(device=device, dtype=dtype or weight.dtype, non_blocking=non_blocking, copy=copy)


def cast_to_device(
    tensor: Tensor, device: torch.device | str | None, dtype: torch.dtype | None, copy: bool = False
) -> Tensor:
    """The same with its arguments in another order."""
    return cast_to(tensor, dtype, device, copy=copy)


def dtype_size(dtype: torch.dtype | None) -> int:
    """Bytes of one number; 4 where nothing is said."""
    return 4 if dtype is None else dtype.itemsize


def module_size(module: nn.Module) -> int:
    """Bytes of a network's parameters and buffers."""
    return sum(tensor.nelement() * tensor.element_size() for tensor in module.state_dict().values())


def move(module: nn.Module, device: torch.device | str | None) -> nn.Module:
    """A network's parameters on a device, in place."""
    return module if device is None else module.to(device)


def module_device(module: nn.Module) -> torch.device:
    """Where a network's first parameter is, or is brought when it is used; the CPU where it has none."""
    for one in module.modules():
        streamed = getattr(one, "streamed", None)
        if streamed is not None:
            found: torch.device = streamed.streamer.device
            return found
        parameter = next(one.parameters(recurse=False), None)
        if parameter is not None:
            return parameter.device
    return torch.device("cpu")
