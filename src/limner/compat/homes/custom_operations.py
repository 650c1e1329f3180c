"""`model_options["custom_operations"]`: a network whose layers are a pack's, which read their weights themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from limner.weights import CheckpointHeader, LazyTensor, NetworkSource, ops
from limner.weights.quant.files import quantized

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


class _Sourced(Protocol):
    """A model or a text encoder."""

    source: NetworkSource


Kind = TypeVar("Kind", bound=_Sourced)


def custom(options: Mapping[str, Any] | None) -> Any:
    """The layers that options name; None where they do not."""
    return (options or {}).get("custom_operations")


def told(header: CheckpointHeader, options: Mapping[str, Any] | None) -> CheckpointHeader:
    """A file as it is for layers that read it themselves; quantized weights told as what they stand for for others."""
    return quantized(header) if custom(options) is None else header


def with_operations(made: Kind, options: Mapping[str, Any] | None) -> Kind:
    """What was loaded, its network built of the options' layers where there is one of that kind.

    What these make of their weights when they read them is what is brought to the device.
    """
    source, operations = made.source, custom(options)
    if operations is None:
        return made

    def build() -> nn.Module:
        return _built(source.build, operations, source.tensors)

    with torch.device("meta"):
        network = build()
    own = {name: LazyTensor.of(one.detach()) for name, one in network.named_parameters() if not one.is_meta}
    made.source = replace(source, build=build, tensors={**source.tensors, **own}, as_they_are=True)
    return made


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
