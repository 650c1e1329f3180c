"""Low-rank adaptation: ΔW = (α / r) · B A, or B M A with a convolution's middle. Hu et al. 2021.

With a magnitude vector it is DoRA (Liu et al. 2024): the direction of W + ΔW with a learned length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.weights.adapters import Adapter, AdapterTensors

# (up, down) in the order in which they are looked for.
_PAIRS = (
    (".lora_up.weight", ".lora_down.weight"),
    ("_lora.up.weight", "_lora.down.weight"),
    (".lora_B.weight", ".lora_A.weight"),
    (".lora.up.weight", ".lora.down.weight"),
    (".lora_B", ".lora_A"),
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    (".lora_B.default.weight", ".lora_A.default.weight"),
)


@dataclass(frozen=True, eq=False)
class LoRA(Adapter):
    """up: B (out, r, …). down: A (r, in, …). mid: (r, r, kh, kw) between them. scale: α / r, 1 without α.

    magnitude: DoRA's, (out, 1…) or (1, in…). shape: what the weight is padded with zeros to first.
    """

    identity: str
    up: Tensor
    down: Tensor
    mid: Tensor | None = None
    scale: float = 1.0
    magnitude: Tensor | None = None
    shape: tuple[int, ...] | None = None

    @classmethod
    def match(cls, tensors: AdapterTensors) -> dict[str, Adapter]:
        """The LoRA of one target, if the file has one."""
        for up_suffix, down_suffix in _PAIRS:
            if not tensors.has(up_suffix):
                continue
            up, down = tensors.take(up_suffix), tensors.take(down_suffix)
            if up is None or down is None:
                return {}
            alpha, shape = tensors.number(".alpha"), tensors.take(".reshape_weight")
            adapter = cls(
                tensors.identity,
                up,
                down,
                mid=tensors.take(".lora_mid.weight"),
                scale=1.0 if alpha is None else alpha / down.shape[0],
                magnitude=tensors.take(".dora_scale"),
                shape=None if shape is None else tuple(int(size) for size in shape),
            )
            return {"weight": adapter}
        return {}

    def patched(self, weight: Tensor, strength: float) -> Tensor:
        """weight + strength · ΔW."""
        if self.shape is not None:
            weight = pad(weight, self.shape)
        delta = self.delta(weight)
        if self.magnitude is None:
            return weight + strength * delta
        return weight + strength * (_with_magnitude(weight + delta, weight, self.magnitude) - weight)

    def delta(self, weight: Tensor) -> Tensor:
        """ΔW in the weight's shape, float32."""
        up, down = (part.to(weight.device, torch.float32) for part in (self.up, self.down))
        if self.mid is not None:
            mid = self.mid.to(weight.device, torch.float32)
            # down becomes the convolution mid ∘ down: (r, in, kh, kw)
            down = torch.einsum("ri,rskl->sikl", down.flatten(1), mid.transpose(0, 1))
        product = up.flatten(1) @ down.flatten(1)
        if product.numel() != weight.numel():
            raise ValueError(f"it makes {tuple(product.shape)} for a weight of {tuple(weight.shape)}")
        return product.reshape(weight.shape) * self.scale


def pad(weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The weight with zeros after it on every axis up to `shape`; never made smaller."""
    if len(shape) != weight.ndim or any(new < old for new, old in zip(shape, weight.shape, strict=True)):
        raise ValueError(f"a weight of {tuple(weight.shape)} cannot grow to {shape}")
    widths = [width for new, old in zip(shape[::-1], weight.shape[::-1], strict=True) for width in (0, new - old)]
    return F.pad(weight, widths)


def _with_magnitude(changed: Tensor, weight: Tensor, magnitude: Tensor) -> Tensor:
    """m · (W + ΔW) / ‖·‖, the length taken along whichever axis the magnitude has not.

    The reference takes the length of W for a magnitude of each output, and of W + ΔW (as the paper) for one of each
    input; pictures made with such files depend on it.
    """
    magnitude = magnitude.to(weight.device, torch.float32)
    if magnitude.shape[0] == weight.shape[0]:
        length = weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.ndim - 1))
    else:
        length = changed.transpose(0, 1).flatten(1).norm(dim=1).reshape(1, -1, *[1] * (weight.ndim - 2))
    result: Tensor = changed * (magnitude.reshape(length.shape) / (length + torch.finfo(torch.float32).eps))
    return result


ADAPTER = LoRA
