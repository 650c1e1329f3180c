"""Hypernetworks of Stable Diffusion 1: small networks that change what attention takes its keys and values from.

A file holds, by width, two stacks of layers, for keys and for values: x ← x + strength · stack(x). Its entries say
which activation follows each linear layer (`activation_func`), whether the last one's too (`activate_output`), and
whether layers are normalised.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput

Function = Callable[[Tensor], Tensor]
OLD_NAMES = {"linear1": "linear.0", "linear2": "linear.1"}


@dataclass(frozen=True)
class Layer:
    """A linear layer or, with a weight of one axis, a layer normalisation; then perhaps an activation."""

    weight: Tensor
    bias: Tensor | None
    activation: Function | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """x: (…, width)."""
        weight = torch.as_tensor(self.weight, device=x.device, dtype=x.dtype)
        bias = None if self.bias is None else torch.as_tensor(self.bias, device=x.device, dtype=x.dtype)
        x = F.layer_norm(x, x.shape[-1:], weight, bias) if weight.ndim == 1 else F.linear(x, weight, bias)
        return x if self.activation is None else self.activation(x)


@dataclass(frozen=True)
class Hypernetwork:
    """stacks: width → (of keys, of values)."""

    stacks: Mapping[int, tuple[tuple[Layer, ...], tuple[Layer, ...]]]
    strength: float = 1.0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, options: Any) -> tuple[Tensor, Tensor, Tensor]:
        """attn1_patch and attn2_patch: what queries, keys and values are made from."""
        del options
        stacks = self.stacks.get(k.shape[-1])
        if stacks is None:
            return q, k, v
        return q, self._changed(k, stacks[0]), self._changed(v, stacks[1])

    def _changed(self, x: Tensor, layers: tuple[Layer, ...]) -> Tensor:
        change = x
        for layer in layers:
            change = layer(change)
        return x + change * self.strength


def load_hypernetwork(path: Path, strength: float) -> Hypernetwork:
    """A hypernetwork of a file. Raises BadInput when it is none."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise BadInput(f"{path.name} cannot be read as a hypernetwork.", why=str(error).splitlines()[0]) from error
    widths = {width: pair for width, pair in content.items() if isinstance(width, int)} if _is_dict(content) else {}
    if not widths or not all(isinstance(pair, list | tuple) and len(pair) >= 2 for pair in widths.values()):
        raise BadInput(f"{path.name} is no hypernetwork.", why="It has no pairs of networks by width.")
    activation = _activation(path, content.get("activation_func"))
    last_too = bool(content.get("activate_output", True))
    stacks = {
        width: (_stack(path, pair[0], activation, last_too), _stack(path, pair[1], activation, last_too))
        for width, pair in widths.items()
    }
    return Hypernetwork(stacks, strength)


def _is_dict(content: Any) -> bool:
    return isinstance(content, dict)


def _stack(path: Path, state: Any, activation: Function | None, last_too: bool) -> tuple[Layer, ...]:
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BadInput(f"{path.name} is no hypernetwork.", why="One of its networks is not made of tensors.")
    named = {_renamed(name): value for name, value in state.items()}
    places = sorted({int(name.split(".")[1]) for name in named if name.startswith("linear.")})
    matrices = [place for place in places if named[f"linear.{place}.weight"].ndim == 2]
    layers = []
    for place in places:
        weight = named[f"linear.{place}.weight"]
        follows = weight.ndim == 2 and (last_too or place != matrices[-1])
        layers.append(Layer(weight, named.get(f"linear.{place}.bias"), activation if follows else None))
    return tuple(layers)


def _renamed(name: str) -> str:
    first, _, rest = name.partition(".")
    return f"{OLD_NAMES[first]}.{rest}" if first in OLD_NAMES else name


def _activation(path: Path, name: str | None) -> Function | None:
    if name is None or name == "linear":
        return None
    if name == "swish":
        return nn.Hardswish()
    kinds = {kind.lower(): kind for kind in nn.modules.activation.__all__}
    if name.lower() not in kinds:
        raise BadInput(f"{path.name} uses the activation {name!r}, which is not known.", why="It is none of torch's.")
    made: Function = getattr(nn, kinds[name.lower()])()
    return made
