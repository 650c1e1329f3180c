"""The blocks of FLUX.1 and its kin: of two streams, text and patches, and of one. Black Forest Labs 2024.

They are written for their memory. A token of width D costs D for its residual and 4 D inside the feed-forward,
which with D for what goes in or comes out is the worst moment: 6 D. Everything else stays below that: modulated
streams live only until they are projected, q, k and v are projected apart and joined one by one, and what is added to
a residual is written over it. In a block of one stream the attention is done and added before the feed-forward begins.

Attribute names are the keys of the published checkpoints, the blocks' arguments those of the reference, because node
packs build and call them. Shape letters: B batch, N patches, L text tokens, S = L + N, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.models.layers import attention
from limner.models.layers.hooks import Hooks
from limner.models.layers.lifetimes import add_gated, gelu, part_of, split_linear, untouched
from limner.models.layers.rope import rotate, rotation
from limner.weights.ops import LayerNorm, Linear, arrived, cast

# -- small layers -----------------------------------------------------------------------------------------------------


class EmbedND(nn.Module):
    """Places as the matrices that queries and keys are turned by."""

    def __init__(self, dim: int, theta: float, axes_dim: Sequence[int]) -> None:
        super().__init__()
        self.dim, self.theta, self.axes_dim = dim, theta, tuple(axes_dim)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: (B, S, axes) → (B, 1, S, head / 2, 2, 2), float32."""
        return rotation(ids, self.axes_dim, self.theta)


class MLPEmbedder(nn.Module):
    """A vector through two layers."""

    def __init__(self, in_dim: int, hidden_dim: int, **_: Any) -> None:
        super().__init__()
        self.in_layer = Linear(in_dim, hidden_dim)
        self.silu = nn.SiLU()
        self.out_layer = Linear(hidden_dim, hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, in) → (B, D)."""
        return self.out_layer(self.silu(self.in_layer(x)))


class RMSNorm(nn.Module):
    """Root-mean-square normalization, its weight called `scale`."""

    def __init__(self, dim: int, **_: Any) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, width) → like x."""
        return F.rms_norm(x, self.scale.shape, cast(self.scale, x), 1e-6)


class QKNorm(nn.Module):
    """Queries and keys normalized head by head."""

    def __init__(self, dim: int, **_: Any) -> None:
        super().__init__()
        self.query_norm = RMSNorm(dim)
        self.key_norm = RMSNorm(dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """q, k: (…, head) → like them, in v's dtype."""
        return self.query_norm(q).to(v), self.key_norm(k).to(v)


class SelfAttention(nn.Module):
    """The projections of one stream around an attention over both."""

    def __init__(self, dim: int, num_heads: int = 8, qkv_bias: bool = False, **_: Any) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.norm = QKNorm(dim // num_heads)
        self.proj = Linear(dim, dim)

    def parts(self, x: Tensor) -> Iterator[Tensor]:
        """q, k and v, (B, N, heads, head) each, q and k normalized; each made when it is asked for. x: (B, N, D)."""
        return normalized(split_linear(self.qkv, x, 3), self.num_heads, self.norm)


def normalized(parts: Iterator[Tensor], heads: int, norm: QKNorm) -> Iterator[Tensor]:
    """q, k and v, (B, N, D) each, as heads, (B, N, heads, head), q and k normalized; each made when it is asked for."""
    yield norm.query_norm(as_heads(next(parts), heads))
    yield norm.key_norm(as_heads(next(parts), heads))
    yield as_heads(next(parts), heads)


def as_heads(part: Tensor, heads: int) -> Tensor:
    """(B, N, D) → (B, N, heads, head)."""
    return part.view(*part.shape[:2], heads, -1)


def attend(parts: Iterator[Tensor], pe: Tensor, mask: Tensor | None, hooks: Hooks) -> Tensor:
    """Attention between tokens that know their places: (B, S, D).

    parts: q, k and v, (B, S, heads, head) each. Each is turned before the next is made, and what they are made of is
    let go of before they are attended over.
    """
    q = rotate(next(parts), pe)
    k = rotate(next(parts), pe)
    v = next(parts)
    next(parts, None)
    heads = q.shape[2]
    return attention.optimized_attention(
        q.flatten(2), k.flatten(2), v.flatten(2), heads, mask=mask, transformer_options=hooks
    )


class ModulationOut(NamedTuple):
    """By what a stream is shifted and scaled before a layer, and what the layer gives is multiplied with; (B, 1, D)."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


class Modulation(nn.Module):
    """Shift, scale and gate from the vector of time, guidance and text; two sets of them where `double`."""

    def __init__(self, dim: int, double: bool, **_: Any) -> None:
        super().__init__()
        self.is_double, self.multiplier = double, 6 if double else 3
        self.lin = Linear(dim, self.multiplier * dim)

    def forward(self, vec: Tensor) -> tuple[ModulationOut, ModulationOut | None]:
        """vec: (B, D), or (B, places, D) → the first set, and the second."""
        vec = vec[:, None] if vec.ndim == 2 else vec
        out = self.lin(F.silu(vec)).chunk(self.multiplier, dim=-1)
        return ModulationOut(*out[:3]), ModulationOut(*out[3:]) if self.is_double else None


def apply_mod(tensor: Tensor, m_mult: Tensor, m_add: Tensor | None = None, modulation_dims: Any = None) -> Tensor:
    """tensor · m_mult + m_add. modulation_dims: [(start, end, place)], where stretches of tokens have their own."""
    if modulation_dims is None:
        return tensor * m_mult if m_add is None else torch.addcmul(m_add, tensor, m_mult)
    result = tensor.clone()
    for start, end, place in modulation_dims:
        result[:, start:end] *= m_mult[:, place : place + 1]
        if m_add is not None:
            result[:, start:end] += m_add[:, place : place + 1]
    return result


def modulated(norm: nn.Module, x: Tensor, by: ModulationOut, dims: Any = None) -> Tensor:
    """norm(x) · (1 + scale) + shift."""
    return apply_mod(norm(x), 1 + by.scale, by.shift, dims)


def added(x: Tensor, by: ModulationOut, change: Tensor, dims: Any = None) -> Tensor:
    """x + gate · change, written over x, which must be the caller's own."""
    return add_gated(x, by.gate, change) if dims is None else x + apply_mod(change, by.gate, None, dims)


# -- blocks -----------------------------------------------------------------------------------------------------------


def norm(width: int) -> LayerNorm:
    """The normalization before each layer; what follows it scales and shifts."""
    return LayerNorm(width, eps=1e-6, elementwise_affine=False)


def feed_forward(width: int, inner: int) -> nn.Sequential:
    """Two layers with GELU between."""
    return nn.Sequential(Linear(width, inner), nn.GELU(approximate="tanh"), Linear(inner, width))


class DoubleStreamBlock(nn.Module):
    """Attention over text and patches at once, then a feed-forward for each.

    modulation: whether it makes its shifts, scales and gates from the vector it is given; if not, `vec` is them:
    ((first, second) of the patches, (first, second) of the text), each a ModulationOut.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool = False,
        flipped_img_txt: bool = False,
        modulation: bool = True,
        **_: Any,
    ) -> None:
        super().__init__()
        inner = int(hidden_size * mlp_ratio)
        self.num_heads, self.hidden_size, self.flipped_img_txt = num_heads, hidden_size, flipped_img_txt
        self.modulation = modulation
        self.img_mod = Modulation(hidden_size, double=True) if modulation else None
        self.img_norm1, self.img_norm2 = norm(hidden_size), norm(hidden_size)
        self.img_attn = SelfAttention(hidden_size, num_heads, qkv_bias)
        self.img_mlp = feed_forward(hidden_size, inner)
        self.txt_mod = Modulation(hidden_size, double=True) if modulation else None
        self.txt_norm1, self.txt_norm2 = norm(hidden_size), norm(hidden_size)
        self.txt_attn = SelfAttention(hidden_size, num_heads, qkv_bias)
        self.txt_mlp = feed_forward(hidden_size, inner)

    def forward(
        self,
        img: Tensor,
        txt: Tensor,
        vec: Any,
        pe: Tensor,
        attn_mask: Tensor | None = None,
        modulation_dims_img: Any = None,
        modulation_dims_txt: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Patches and text, changed.

        img: (B, N, D), txt: (B, L, D). vec: (B, D). pe: the rotations of text, then patches. attn_mask: None, or what
        broadcasts to (B, heads, S, S). modulation_dims_…: see `apply_mod`.
        """
        dims = (modulation_dims_img, modulation_dims_txt)
        return self.over(img.clone(), txt.clone(), vec, pe, attn_mask, Hooks.of(transformer_options), dims)

    def over(
        self,
        img: Tensor,
        txt: Tensor,
        vec: Any,
        pe: Tensor,
        mask: Tensor | None,
        hooks: Hooks,
        dims: tuple[Any, Any] = (None, None),
    ) -> tuple[Tensor, Tensor]:
        """The same, written over `img` and `txt`."""
        of_img = vec[0] if self.img_mod is None else self.img_mod(vec)
        of_txt = vec[1] if self.txt_mod is None else self.txt_mod(vec)
        attended = self._attend(
            self.txt_attn.parts(modulated(self.txt_norm1, txt, of_txt[0], dims[1])),
            self.img_attn.parts(modulated(self.img_norm1, img, of_img[0], dims[0])),
            pe, mask, hooks,
        )  # fmt: skip
        text, image = self._apart(attended, txt.shape[1], img.shape[1])
        img = added(img, of_img[0], self.img_attn.proj(image), dims[0])
        txt = added(txt, of_txt[0], self.txt_attn.proj(text), dims[1])
        del attended, text, image
        img = self._fed_forward(img, self.img_norm2, self.img_mlp, of_img[1], dims[0])
        txt = self._fed_forward(txt, self.txt_norm2, self.txt_mlp, of_txt[1], dims[1])
        return img, txt

    def _attend(
        self, text: Iterator[Tensor], image: Iterator[Tensor], pe: Tensor, mask: Tensor | None, hooks: Hooks
    ) -> Tensor:
        """Attention over both streams: (B, S, D). text, image: q, k and v of each, joined one by one."""
        first, second = (image, text) if self.flipped_img_txt else (text, image)
        return attend((torch.cat((next(first), next(second)), dim=1) for _ in range(3)), pe, mask, hooks)

    def _apart(self, attended: Tensor, text: int, image: int) -> tuple[Tensor, Tensor]:
        """Of what the attention gave, that of the text and that of the patches."""
        if self.flipped_img_txt:
            return attended[:, image:], attended[:, :image]
        return attended[:, :text], attended[:, text:]

    @staticmethod
    def _fed_forward(x: Tensor, norm: nn.Module, mlp: nn.Sequential, by: ModulationOut, dims: Any) -> Tensor:
        """A stream with what its feed-forward gives added. What goes in is gone before anything comes out."""
        inner = gelu(mlp[0](modulated(norm, x, by, dims)))
        return added(x, by, mlp[2](inner), dims)


class SingleStreamBlock(nn.Module):
    """Attention and feed-forward of one stream, side by side.

    modulation: whether it makes shift, scale and gate from the vector it is given; if not, `vec` is them.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qk_scale: float | None = None,
        modulation: bool = True,
        **_: Any,
    ) -> None:
        super().__init__()
        self.hidden_dim = self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.scale = qk_scale or (hidden_size // num_heads) ** -0.5
        self.mlp_hidden_dim = int(hidden_size * mlp_ratio)
        self.linear1 = Linear(hidden_size, 3 * hidden_size + self.mlp_hidden_dim)  # q, k, v, and into the feed-forward
        self.linear2 = Linear(hidden_size + self.mlp_hidden_dim, hidden_size)  # out of both
        self.norm = QKNorm(hidden_size // num_heads)
        self.pre_norm = norm(hidden_size)
        self.mlp_act = nn.GELU(approximate="tanh")
        self.modulation = Modulation(hidden_size, double=False) if modulation else None

    def forward(
        self,
        x: Tensor,
        vec: Any,
        pe: Tensor,
        attn_mask: Tensor | None = None,
        modulation_dims: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """The stream, changed. x: (B, S, D); the others as of `DoubleStreamBlock`."""
        return self.over(x.clone(), vec, pe, attn_mask, Hooks.of(transformer_options), modulation_dims)

    def over(self, x: Tensor, vec: Any, pe: Tensor, mask: Tensor | None, hooks: Hooks, dims: Any = None) -> Tensor:
        """The same, written over x."""
        by = self.modulation(vec)[0] if self.modulation is not None else vec
        shown = modulated(self.pre_norm, x, by, dims)
        if not (untouched(self.linear1, _LINEAR) and untouched(self.linear2, _LINEAR)):
            return added(x, by, self._whole(shown, pe, mask, hooks), dims)
        width = self.hidden_size
        parts = (part_of(self.linear1, shown, place * width, width) for place in range(3))
        attended = attend(normalized(parts, self.num_heads, self.norm), pe, mask, hooks)
        inner = None
        if self.linear2.streamed is not None:  # weights that do not stay are brought once: all of linear1's first
            inner = gelu(part_of(self.linear1, shown, 3 * width, self.mlp_hidden_dim))
        weight, bias = arrived(self.linear2, x)
        x = added(x, by, F.linear(attended, weight[:, :width], bias), dims)
        del attended
        if inner is None:
            inner = gelu(part_of(self.linear1, shown, 3 * width, self.mlp_hidden_dim))
        del shown
        return added(x, by, F.linear(inner, weight[:, width:]), dims)

    def _whole(self, shown: Tensor, pe: Tensor, mask: Tensor | None, hooks: Hooks) -> Tensor:
        """What is added to the stream, through both layers as they are called: packs may have replaced them."""
        width = self.hidden_size
        qkv, inner = self.linear1(shown).split((3 * width, self.mlp_hidden_dim), dim=-1)
        parts = (part.contiguous() for part in qkv.chunk(3, dim=-1))
        attended = attend(normalized(parts, self.num_heads, self.norm), pe, mask, hooks)
        return self.linear2(torch.cat((attended, self.mlp_act(inner)), dim=-1))


class LastLayer(nn.Module):
    """Patches to the latent's cells."""

    def __init__(self, hidden_size: int, patch_size: int, out_channels: int, **_: Any) -> None:
        super().__init__()
        self.norm_final = norm(hidden_size)
        self.linear = Linear(hidden_size, patch_size**2 * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, vec: Tensor, modulation_dims: Any = None) -> Tensor:
        """x: (B, N, D), vec: (B, D) → (B, N, patch² · out)."""
        vec = vec[:, None] if vec.ndim == 2 else vec
        shift, scale = self.adaLN_modulation(vec).chunk(2, dim=-1)
        return self.linear(apply_mod(self.norm_final(x), 1 + scale, shift, modulation_dims))


_LINEAR = Linear.forward
