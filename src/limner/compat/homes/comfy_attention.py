"""comfy.ldm.modules.attention: attention functions and the layers of transformers over pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.compat.homes.comfy_ops import disable_weight_init
from limner.compat.homes.not_yet import missing
from limner.compat.homes.stands_for import StandsFor
from limner.models import unet
from limner.models.layers import attention as core
from limner.models.layers.attention import attention_pytorch, optimized_attention, wrap_attn
from limner.models.unet import GEGLU, UNetConfig

__all__ = ["GEGLU", "attention_pytorch", "optimized_attention", "wrap_attn"]

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


class CrossAttention(unet.CrossAttention, metaclass=StandsFor):
    """Attention of x over a context; those of models are instances too."""

    recognises = staticmethod(lambda found: isinstance(found, unet.CrossAttention))

    def __init__(
        self,
        query_dim: int,
        context_dim: int | None = None,
        heads: int = 8,
        dim_head: int = 64,
        dropout: float = 0.0,
        attn_precision: Any = None,
        dtype: Any = None,
        device: Any = None,
        operations: Any = disable_weight_init,
    ) -> None:
        super().__init__("attn", query_dim, context_dim or query_dim, heads)
        inner, made = heads * dim_head, {"dtype": dtype, "device": device}
        self.to_q = operations.Linear(query_dim, inner, bias=False, **made)
        self.to_k = operations.Linear(context_dim or query_dim, inner, bias=False, **made)
        self.to_v = operations.Linear(context_dim or query_dim, inner, bias=False, **made)
        self.to_out = nn.Sequential(operations.Linear(inner, query_dim, **made), nn.Dropout(dropout))
        self.dim_head, self.attn_precision = dim_head, attn_precision

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
        transformer_options: Any = None,
    ) -> Tensor:
        """x: (B, L, C), context: (B, L', D), x itself where None → like x. No hooks are called."""
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context if value is None else value)
        options = {} if transformer_options is None else transformer_options
        out = core.optimized_attention(q, k, v, self.heads, mask=mask, transformer_options=options)
        found: Tensor = self.to_out(out)
        return found


class BasicTransformerBlock(unet.TransformerBlock, metaclass=StandsFor):
    """Self-attention, cross-attention and feed-forward; those of models are instances too."""

    recognises = staticmethod(lambda found: isinstance(found, unet.TransformerBlock))

    def __init__(
        self,
        dim: int,
        n_heads: int,
        d_head: int,
        dropout: float = 0.0,
        context_dim: int | None = None,
        gated_ff: bool = True,
        checkpoint: bool = True,
        dtype: Any = None,
        **others: Any,
    ) -> None:
        if not gated_ff or n_heads * d_head != dim or others.get("ff_in"):
            raise missing("BasicTransformerBlock other than a UNet's", "config")
        del dropout, checkpoint
        alone, precision = bool(others.get("disable_self_attn")), others.get("attn_precision")
        super().__init__(dim, context_dim or dim, n_heads, alone, precision)
        if dtype is not None:
            self.to(dtype)


class SpatialTransformer(unet.SpatialTransformer, metaclass=StandsFor):
    """Transformers over the pixels of a feature map; those of models are instances too."""

    recognises = staticmethod(lambda found: isinstance(found, unet.SpatialTransformer))

    def __init__(
        self,
        in_channels: int,
        n_heads: int,
        d_head: int,
        depth: int = 1,
        dropout: float = 0.0,
        context_dim: Any = None,
        disable_self_attn: bool = False,
        use_linear: bool = False,
        use_checkpoint: bool = True,
        attn_precision: Any = None,
        dtype: Any = None,
        **_: Any,
    ) -> None:
        if n_heads * d_head != in_channels:
            raise missing("SpatialTransformer other than a UNet's", "config")
        del dropout, use_checkpoint
        width = context_dim[0] if isinstance(context_dim, list) else context_dim
        config = UNetConfig(
            context_dim=width, use_linear_in_transformer=use_linear, num_heads=n_heads, attn_precision=attn_precision
        )
        super().__init__(in_channels, depth, config, disable_self_attn)
        if dtype is not None:
            self.to(dtype)
