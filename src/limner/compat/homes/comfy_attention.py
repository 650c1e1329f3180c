"""comfy.ldm.modules.attention: attention functions and the layers of transformers over pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.compat.homes.comfy_ops import disable_weight_init
from limner.models.layers import attention as core
from limner.models.layers.attention import attention_pytorch, optimized_attention, wrap_attn
from limner.models.unet import GEGLU, CrossAttention, SpatialTransformer, TransformerBlock

__all__ = ["GEGLU", "CrossAttention", "SpatialTransformer", "attention_pytorch", "optimized_attention", "wrap_attn"]

BasicTransformerBlock = TransformerBlock
SAGE_ATTENTION_IS_AVAILABLE = False
FLASH_ATTENTION_IS_AVAILABLE = False
BROKEN_XFORMERS = False
FORCE_UPCAST_ATTENTION_DTYPE = None
SDP_BATCH_LIMIT = 2**31
ops = disable_weight_init

attention_basic = attention_pytorch
attention_sub_quad = attention_pytorch
attention_split = attention_pytorch
attention_sage = attention_pytorch
attention_flash = attention_pytorch
attention_xformers = attention_pytorch
attention3_sage = attention_pytorch
REGISTERED_ATTENTION_FUNCTIONS: dict[str, Callable[..., Tensor]] = {"pytorch": attention_pytorch}
_MISSING = object()


def optimized_attention_masked(*args: Any, **kwargs: Any) -> Tensor:
    """Attention with a mask: the one that everything uses."""
    return core.optimized_attention(*args, **kwargs)


def optimized_attention_for_device(device: Any, mask: bool = False, small_input: bool = False) -> Callable[..., Tensor]:
    """The attention for a device."""
    del device, mask, small_input
    return core.optimized_attention


def register_attention_function(name: str, func: Callable[..., Tensor]) -> None:
    """Keep an attention function by name; the first of a name stays."""
    REGISTERED_ATTENTION_FUNCTIONS.setdefault(name, func)


def get_attention_function(name: str, default: Any = _MISSING) -> Any:
    """A kept function. Raises KeyError where there is none and no default."""
    if name == "optimized":
        return core.optimized_attention
    if name not in REGISTERED_ATTENTION_FUNCTIONS and default is _MISSING:
        raise KeyError(f"Attention function {name} not found.")
    return REGISTERED_ATTENTION_FUNCTIONS.get(name, default)


def get_attn_precision(attn_precision: Any, current_dtype: torch.dtype) -> Any:
    """The dtype that attention must compute in: as it is asked."""
    del current_dtype
    return attn_precision


def exists(val: Any) -> bool:
    """Whether it is not None."""
    return val is not None


def default(val: Any, d: Any) -> Any:
    """The value, or what stands in for None."""
    return d if val is None else val


def Normalize(in_channels: int, dtype: Any = None, device: Any = None) -> nn.Module:  # noqa: N802 - ComfyUI's name
    """Group normalization in 32 groups."""
    return nn.GroupNorm(num_groups=32, num_channels=in_channels, eps=1e-6, affine=True, dtype=dtype, device=device)


class FeedForward(nn.Module):
    """A gated linear layer and one back; glu False: an activated one."""

    def __init__(
        self,
        dim: int,
        dim_out: int | None = None,
        mult: float = 4,
        glu: bool = False,
        dropout: float = 0.0,
        dtype: Any = None,
        device: Any = None,
        operations: Any = disable_weight_init,
    ) -> None:
        super().__init__()
        inner, made = int(dim * mult), {"dtype": dtype, "device": device}
        first = _Gated(dim, inner, operations, made) if glu else _Activated(dim, inner, operations, made)
        self.net = nn.Sequential(first, nn.Dropout(dropout), operations.Linear(inner, dim_out or dim, **made))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, dim)."""
        found: Tensor = self.net(x)
        return found


class _Gated(nn.Module):
    def __init__(self, dim: int, inner: int, operations: Any, made: Any) -> None:
        super().__init__()
        self.proj = operations.Linear(dim, inner * 2, **made)

    def forward(self, x: Tensor) -> Tensor:
        """a · gelu(b)."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        gated: Tensor = value * F.gelu(gate)
        return gated


class _Activated(nn.Sequential):
    def __init__(self, dim: int, inner: int, operations: Any, made: Any) -> None:
        super().__init__(operations.Linear(dim, inner, **made), nn.GELU())
