"""`model_options["custom_operations"]`: a network whose layers are a pack's, which read their weights themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from limner.models.model import Model
from limner.weights import LazyTensor, ops

ARGUMENTS: dict[type[nn.Module], tuple[str, ...]] = {
    ops.Linear: ("in_features", "out_features"),
    **dict.fromkeys(
        (ops.Conv1d, ops.Conv2d, ops.Conv3d),
        ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
    ),
    ops.GroupNorm: ("num_groups", "num_channels", "eps", "affine"),
    ops.LayerNorm: ("normalized_shape", "eps", "elementwise_affine"),
    ops.RMSNorm: ("normalized_shape", "eps", "elementwise_affine"),
    ops.Embedding: ("num_embeddings", "embedding_dim"),
}
"""What layers are made with, beside a bias."""
BIASED = (ops.Linear, ops.Conv1d, ops.Conv2d, ops.Conv3d, ops.LayerNorm)


def with_operations(model: Model, operations: Any) -> Model:
    """The model, its network built of a pack's layers where the pack has one of that kind.

    What these make of their weights when they read them is what is brought to the device.
    """
    source = model.source

    def build() -> nn.Module:
        return _built(source.build, operations, source.tensors)

    with torch.device("meta"):
        network = build()
    made = {name: LazyTensor.of(one.detach()) for name, one in network.named_parameters() if not one.is_meta}
    model.source = replace(source, build=build, tensors={**source.tensors, **made}, as_they_are=True)
    return model


def _built(build: Callable[[], nn.Module], operations: Any, tensors: Mapping[str, LazyTensor]) -> nn.Module:
    network = build()
    for name, module in list(network.named_modules()):
        made = _made(module, operations)
        if made is not None:
            owner, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(owner), leaf, made)
            _load(made, f"{name}.", tensors)
    return network


def _made(module: nn.Module, operations: Any) -> nn.Module | None:
    """A pack's layer in the place of one of Limner's; None for any other module, and where the pack has none."""
    kind = getattr(operations, type(module).__name__, None)
    if kind is None or type(module) not in ARGUMENTS:
        return None
    arguments = {name: getattr(module, name) for name in ARGUMENTS[type(module)]}
    if isinstance(module, BIASED):
        arguments["bias"] = module.bias is not None
    made: nn.Module = kind(**arguments, device=torch.get_default_device(), dtype=torch.get_default_dtype())
    return made


def _load(module: nn.Module, prefix: str, tensors: Mapping[str, LazyTensor]) -> None:
    """Let a layer take what is its own, as `load_state_dict` would."""
    state = {name: entry.read() for name, entry in tensors.items() if name.startswith(prefix)}
    with torch.device("cpu"):
        module._load_from_state_dict(state, prefix, {"assign_to_params_buffers": True}, True, [], [], [])
