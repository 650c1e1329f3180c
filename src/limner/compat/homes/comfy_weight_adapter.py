"""comfy.weight_adapter: changes of weights as objects."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from limner.compat.homes.not_yet import missing
from limner.compat.homes.stands_for import StandsFor
from limner.weights.adapters import Adapter
from limner.weights.adapters.lora import LoRA
from limner.weights.adapters.lora import pad as _pad


class WeightAdapterBase(metaclass=StandsFor):
    """A change of a weight; those that LoRA files hold are instances."""

    name = ""
    recognises = staticmethod(lambda found: isinstance(found, Adapter))

    @classmethod
    def load(cls, x: str, lora: Any, alpha: float, dora_scale: Any) -> Any:
        """The change of one target, or None."""
        raise NotImplementedError

    def calculate_weight(
        self, weight: Tensor, key: str, strength: float, strength_model: float, offset: Any, function: Any, **_: Any
    ) -> Tensor:
        """The changed weight."""
        raise NotImplementedError


class LoRAAdapter(WeightAdapterBase):
    """A low-rank change."""

    name = "lora"
    recognises = staticmethod(lambda found: isinstance(found, LoRA))


class WeightAdapterTrainBase(nn.Module):
    """A change that is being trained: not supported yet."""

    def __init__(self) -> None:
        raise missing("WeightAdapterTrainBase", "training")


adapters: list[type] = [LoRAAdapter]
adapter_maps: dict[str, Any] = {"LoRA": LoRAAdapter}


def pad_tensor_to_shape(tensor: Tensor, new_shape: Any) -> Tensor:
    """A tensor with zeros after it on every axis."""
    return _pad(tensor, tuple(new_shape))


def factorization(dimension: int, factor: int = -1) -> tuple[int, int]:
    """Two numbers, the first no larger, whose product is the dimension: as near to each other as can be."""
    if factor > 0 and dimension % factor == 0:
        first, second = factor, dimension // factor
        return (second, first) if first > second else (first, second)
    limit = dimension if factor < 0 else factor
    best = (1, dimension)
    for first in range(1, int(dimension**0.5) + 1):
        second = dimension // first
        if dimension % first == 0 and first <= limit and first + second < sum(best):
            best = (first, second)
    return best


def tucker_weight_from_conv(up: Tensor, down: Tensor, mid: Tensor) -> Tensor:
    """A convolution from its three factors."""
    import torch  # noqa: PLC0415 - one use

    return torch.einsum("m n ..., i m, n j -> i j ...", mid, up.reshape(up.size(0), -1), down.reshape(down.size(0), -1))


def tucker_weight(wa: Tensor, wb: Tensor, t: Tensor) -> Tensor:
    """The same from a core tensor and two matrices."""
    import torch  # noqa: PLC0415 - one use

    return torch.einsum("i j ..., i r -> r j ...", torch.einsum("i j ..., j r -> i r ...", t, wb), wa)
