"""Small controls, as networks and as files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from limner.models.control.t2i import Adapter, AdapterConfig
from limner.models.control.unet import ControlUNet, ControlUNetConfig
from limner.weights import save
from tests.models.make import TINY_UNET

HINT = (3, 4, 4, 4, 4, 6, 6, 6, 8)
SAID = {"num_heads": TINY_UNET.num_heads, "norm_groups": TINY_UNET.norm_groups}
ADAPTER = AdapterConfig(colours=3, unshuffle=8, widths=(8, 16, 16, 16), depth=2)


def seeded(network: nn.Module, seed: int = 3) -> nn.Module:
    """The network with seeded weights that do something: zero convolutions are not zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5
    return network.eval().requires_grad_(False)


def tiny_control(kinds: int = 0, **unet: object) -> ControlUNet:
    """A ControlNet for `tests.models.make.tiny_unet`. kinds: of a union network."""
    dims = replace(TINY_UNET, transformer_depth_output=(), **unet)  # type: ignore[arg-type]
    return seeded(ControlUNet(ControlUNetConfig(dims, HINT, kinds)))  # type: ignore[return-value]


def tiny_adapter(**changes: object) -> Adapter:
    """A T2I adapter."""
    return seeded(Adapter(replace(ADAPTER, **changes)))  # type: ignore[arg-type,return-value]


def control_file(folder: Path, tensors: dict[str, torch.Tensor], name: str = "control.safetensors") -> Path:
    """A file of these tensors, with the tiny networks' head count."""
    save(folder / name, {key: value.contiguous() for key, value in tensors.items()}, {"config": json.dumps(SAID)})
    return folder / name
