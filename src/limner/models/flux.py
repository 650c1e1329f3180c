"""FLUX.1: text to picture by a transformer of two streams, then one. Black Forest Labs 2024.

Its Fill, Kontext and control variants are here as well. A picture's latent is cut into patches of 2×2 cells; pictures
to go by (Kontext) are cut likewise and put behind it. Text tokens of T5 run beside them. First come blocks that
modulate, project and feed forward both streams with weights of their own and attend over both at once; then text and
patches become one stream, in blocks whose attention and feed-forward run side by side. Places are told by rotating
queries and keys.

The blocks are written for their memory. A token of width D costs D for its residual and 4 D inside the feed-forward,
which with D for what goes in or comes out is the worst moment: 6 D. Everything else stays below that: modulated
streams live only until they are projected, q, k and v are projected apart and joined one by one, and what is added to
a residual is written over it. In a block of one stream the attention is done and added before the feed-forward begins.

Attribute names are the keys of the published checkpoints (`double_blocks.0.img_attn.qkv.weight` …), the blocks'
arguments those of the reference, because node packs build and call them.

Shape letters: B batch, C latent channels, H and W latent height and width, N patches, L text tokens, S = L + N,
D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput
from limner.models.conditions import reference_conditions, standard_conditions
from limner.models.family import DiffusersLayout, Family, LoraNames, Mark, Prediction, has, lacks
from limner.models.flux_lora import LAYOUTS, parts
from limner.models.layers import attention
from limner.models.layers.hooks import Hooks
from limner.models.layers.lifetimes import add_gated, gelu, part_of, split_linear, untouched
from limner.models.layers.masks import resized_mask
from limner.models.layers.patches import patched, unpatched
from limner.models.layers.rope import grid_ids, rotate, rotation
from limner.models.layers.shapes import Overrides, Shapes, agree, count_whole, shape
from limner.models.lora_keys import weights_alone
from limner.models.text.encode import Encoded, EncodeSettings
from limner.models.text.recipe import RowSettings, TextEncoding, TextPart
from limner.models.unet import timestep_embedding
from limner.sampling.latent_formats import FORMATS
from limner.sampling.wrappers import run_network
from limner.weights.header import CheckpointHeader
from limner.weights.ops import LayerNorm, Linear, arrived, cast
from limner.weights.targets import Part, Target

if TYPE_CHECKING:
    from limner.models.base import BaseModel

# -- the dimensions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FluxConfig:
    """The dimensions; the defaults are those of FLUX.1 dev. Names are those of the reference's arguments."""

    in_channels: int = 16  # of a cell, with what is joined to the latent
    out_channels: int = 16
    vec_in_dim: int | None = 768  # width of the vector y; None where there is none
    context_in_dim: int = 4096  # width of the text
    hidden_size: int = 3072
    mlp_ratio: float = 4.0
    num_heads: int = 24
    depth: int = 19  # blocks of two streams
    depth_single_blocks: int = 38  # blocks of one
    axes_dim: tuple[int, ...] = (16, 56, 56)  # features of a head that tell picture, row and column
    theta: int = 10000
    patch_size: int = 2
    qkv_bias: bool = True
    guidance_embed: bool = True

    @classmethod
    def from_state(cls, shapes: Shapes, overrides: Overrides) -> FluxConfig:
        """Read the dimensions off the tensors of a bare network.

        overrides: `axes_dim` (by rule the picture has an eighth of a head), `theta` and `patch_size` are taken from
        it; what shapes tell must agree with it.

        Raises BadInput when a tensor is missing or the overrides contradict the shapes.
        """
        width, patch_channels = shape(shapes, "img_in.weight", 2)
        cells = int(overrides.get("patch_size") or 2) ** 2
        heads = width // shape(shapes, "double_blocks.0.img_attn.norm.key_norm.scale", 1)[0]
        config = cls(
            in_channels=patch_channels // cells,
            out_channels=shape(shapes, "final_layer.linear.weight", 2)[0] // cells,
            vec_in_dim=shapes["vector_in.in_layer.weight"][1] if "vector_in.in_layer.weight" in shapes else None,
            context_in_dim=shape(shapes, "txt_in.weight", 2)[1],
            hidden_size=width,
            mlp_ratio=shape(shapes, "double_blocks.0.img_mlp.0.weight", 2)[0] / width,
            num_heads=heads,
            depth=count_whole(shapes, "double_blocks.{}."),
            depth_single_blocks=count_whole(shapes, "single_blocks.{}."),
            axes_dim=axes_of(overrides, width, heads),
            theta=int(overrides.get("theta") or 10000),
            patch_size=int(overrides.get("patch_size") or 2),
            qkv_bias="double_blocks.0.img_attn.qkv.bias" in shapes,
            guidance_embed="guidance_in.in_layer.weight" in shapes,
        )
        for name in ("in_channels", "out_channels", "vec_in_dim", "context_in_dim", "hidden_size", "num_heads",
                     "depth", "depth_single_blocks", "qkv_bias", "guidance_embed"):  # fmt: skip
            agree(overrides, name, getattr(config, name))
        return config


def axes_of(overrides: Overrides, width: int, heads: int) -> tuple[int, ...]:
    """Features of a head that tell each axis of a place. Raises BadInput where they do not make up a head."""
    head = width // heads
    side = (head - head // 8) // 2
    axes = tuple(int(axis) for axis in overrides.get("axes_dim") or (head // 8, side, side))
    if width % heads or sum(axes) != head or any(axis % 2 for axis in axes):
        raise BadInput(
            f"{width} channels cannot be split into {heads} heads whose places are told by {list(axes)} features.",
            why="The features must be even numbers that make up a head.",
            do="Give an `axes_dim` that does in the file's `config`.",
        )
    return axes


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


_OF_DOUBLE, _OF_SINGLE, _LINEAR = DoubleStreamBlock.forward, SingleStreamBlock.forward, Linear.forward

# -- the network ------------------------------------------------------------------------------------------------------


class Flux(nn.Module):
    """The velocity of a latent at a time, given a text and perhaps pictures to go by."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self.params = self.config = config
        width = config.hidden_size
        self.patch_size, self.hidden_size, self.num_heads = config.patch_size, width, config.num_heads
        self.in_channels = config.in_channels * config.patch_size**2
        self.out_channels = config.out_channels
        self.pe_embedder = EmbedND(width // config.num_heads, config.theta, config.axes_dim)
        self.img_in = Linear(self.in_channels, width)
        self.txt_in = Linear(config.context_in_dim, width)
        self._make_told(config)
        block = (width, config.num_heads, config.mlp_ratio)
        self.double_blocks = nn.ModuleList(
            DoubleStreamBlock(*block, config.qkv_bias, modulation=self.modulates) for _ in range(config.depth)
        )
        self.single_blocks = nn.ModuleList(
            SingleStreamBlock(*block, modulation=self.modulates) for _ in range(config.depth_single_blocks)
        )
        self.final_layer = self._last_layer(config)

    modulates = True
    """Whether each block makes its shifts, scales and gates itself, from one vector."""

    def _make_told(self, config: FluxConfig) -> None:
        """The layers that make what the blocks are told."""
        width = config.hidden_size
        self.time_in = MLPEmbedder(256, width)
        self.vector_in = None if config.vec_in_dim is None else MLPEmbedder(config.vec_in_dim, width)
        self.guidance_in = MLPEmbedder(256, width) if config.guidance_embed else None

    def _last_layer(self, config: FluxConfig) -> nn.Module:
        return LastLayer(config.hidden_size, config.patch_size, config.out_channels)

    def told(self, timesteps: Tensor, y: Tensor | None, guidance: Tensor | None, dtype: torch.dtype) -> Tensor:
        """What all blocks are told: time, guidance and text as one vector, (B, D)."""
        vec = self.time_in(embedded(timesteps, 256).to(dtype))
        if self.guidance_in is not None and guidance is not None:
            vec = vec + self.guidance_in(embedded(guidance, 256).to(dtype))
        if self.vector_in is None:
            return vec
        wanted = self.vector_in.in_layer.in_features
        y = vec.new_zeros(len(vec), wanted) if y is None else y
        if y.shape[-1] != wanted:
            raise BadInput(
                f"The vector of the text is {y.shape[-1]} wide, this Flux model takes {wanted}.",
                why="The prompt was encoded for another model.",
                do="Encode it with the text encoders of Flux (Load CLIP, type flux).",
            )
        return vec + self.vector_in(y.to(dtype))

    def double_told(self, told: Tensor, number: int) -> Any:  # noqa: ARG002 - others tell each block its own
        """What block `number` of two streams is told."""
        return told

    def single_told(self, told: Tensor, number: int) -> Any:  # noqa: ARG002
        """What block `number` of one stream is told."""
        return told

    def last_told(self, told: Tensor) -> Any:
        """What the last layer is told."""
        return told

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        guidance: Tensor | None = None,
        ref_latents: Sequence[Tensor] | None = None,
        control: Mapping[str, list[Tensor | None]] | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """What the network predicts for x, in x's dtype.

        x:           (B, in_channels, H, W); odd sides are continued from the other edge.
        timesteps:   (B,), 0 … 1.
        context:     (B, L, context_in_dim), the encoded text.
        y:           (B, vec_in_dim), its vector; zeros where None.
        guidance:    (B,), the strength that a distilled model imitates; None for none.
        ref_latents: pictures to go by, each like x but of any size. ref_latents_method: where they are seen: "offset",
                     beside the picture; "index", one layer behind the other; "uxo", beyond its corner.
        attention_mask: None, or what is added to the scores of text, then patches: (B, S, S).
        control:     residuals of a ControlNet: "input" after each block of two streams, "output" after each of one,
                     (B, up to N, D) each (None adds nothing).
        transformer_options: hooks (see `limner.models.layers.hooks`): `post_input` ({img, txt, img_ids, txt_ids}),
                     `double_block` ({img, txt, x, block_index}), `single_block`, `patches_replace["dit"]` of
                     ("double_block", i) ({img, txt, vec, pe, attn_mask} → {img, txt}) and ("single_block", i)
                     ({img, vec, pe, attn_mask} → {img}); and `rope_options` (see `rope.grid_ids`).
        returns:     (B, out_channels, H, W).
        """
        options = dict(transformer_options or {})
        found: Tensor = run_network(
            self, options, x, timesteps, context, y, guidance, ref_latents, control, options, **kwargs
        )
        return found

    def _forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        guidance: Tensor | None = None,
        ref_latents: Sequence[Tensor] | None = None,
        control: Mapping[str, list[Tensor | None]] | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        ref_latents_method: str | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        hooks = Hooks(transformer_options)
        height, width = x.shape[-2:]
        rows, columns = -(-height // self.patch_size), -(-width // self.patch_size)
        img, ids = self.with_references(x, ref_latents or (), ref_latents_method, hooks)
        txt_ids = ids.new_zeros(1, context.shape[1], len(self.config.axes_dim))
        out = self.forward_orig(
            img, ids, context.to(x.dtype), txt_ids, timesteps, y, guidance, control, hooks, attention_mask
        )
        cells = unpatched(out[:, : rows * columns], rows, columns, self.patch_size)
        return cells[:, :, :height, :width]

    def with_references(
        self, x: Tensor, references: Sequence[Tensor], method: str | None, hooks: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """The patches of a picture and of those to go by, and their places."""
        patches, ids = self.process_img(x, transformer_options=hooks)
        patch = self.patch_size
        rows, columns = -(-x.shape[-2] // patch), -(-x.shape[-1] // patch)
        all_patches, all_ids = [patches], [ids]
        down = right = 0  # cells that are taken, beside the picture or beyond its corner
        for number, reference in enumerate(references, 1):
            height, width = reference.shape[-2:]
            index, top, left = 1, 0, 0
            if method == "index":
                index = number
            elif method == "uxo":
                if number == 1:
                    down, right = rows * patch, columns * patch
                index, top, left = 0, down, right
                down, right = down + height, right + width
            elif method in (None, "offset"):
                top, left = (0, right) if height + down > width + right else (down, 0)
                down, right = max(down, height + top), max(right, width + left)
            else:
                raise BadInput(
                    f"There is no way {method!r} to see reference pictures.", do="Choose index, offset or uxo."
                )
            row, column = ((side + patch // 2) // patch for side in (top, left))
            patches, ids = self.process_img(reference.to(x), index, row, column, hooks)
            all_patches.append(patches)
            all_ids.append(ids)
        return torch.cat(all_patches, dim=1), torch.cat(all_ids, dim=1)

    def process_img(
        self,
        x: Tensor,
        index: float = 0,
        h_offset: float = 0,
        w_offset: float = 0,
        transformer_options: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """A picture's patches (B, N, C · patch²) and their places (1, N, 3)."""
        rope = (transformer_options or {}).get("rope_options") or {}
        patches, rows, columns = patched(x, self.patch_size)
        return patches, grid_ids(rows, columns, rope, index=index, top=h_offset, left=w_offset, device=x.device)

    def forward_orig(
        self,
        img: Tensor,
        img_ids: Tensor,
        txt: Tensor,
        txt_ids: Tensor,
        timesteps: Tensor,
        y: Tensor | None = None,
        guidance: Tensor | None = None,
        control: Mapping[str, list[Tensor | None]] | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """The same from patches to patches. img: (B, N, C · patch²), txt: (B, L, …); places: (B or 1, …, 3)."""
        hooks = Hooks.of(transformer_options)
        told = self.told(timesteps, y, guidance, img.dtype)
        out = self.blocks_over(self.img_in(img), img_ids, txt, txt_ids, told, control, hooks, attn_mask, img)
        return self.final_layer(out, self.last_told(told))

    def blocks_over(
        self,
        img: Tensor,
        img_ids: Tensor,
        txt: Tensor,
        txt_ids: Tensor,
        told: Any,
        control: Mapping[str, list[Tensor | None]] | None,
        hooks: Hooks,
        attn_mask: Tensor | None,
        x: Tensor,
    ) -> Tensor:
        """Patches after all blocks: (B, N, D). img: (B, N, D), written over. x: the picture, for those who look on."""
        txt = self.txt_in(txt)
        if post_input := hooks.at("post_input"):
            img_ids, txt_ids = img_ids.expand(len(img), -1, -1), txt_ids.expand(len(img), -1, -1)
            for patch in post_input:
                found = patch({"img": img, "txt": txt, "img_ids": img_ids, "txt_ids": txt_ids,
                               "transformer_options": hooks})  # fmt: skip
                img, txt, img_ids, txt_ids = (found[name] for name in ("img", "txt", "img_ids", "txt_ids"))
        pe = self.pe_embedder(torch.cat((txt_ids, img_ids), dim=1))
        mask = None if attn_mask is None else attn_mask.to(img.dtype) if attn_mask.is_floating_point() else attn_mask
        inputs, outputs = ((control or {}).get(name) or [] for name in ("input", "output"))
        img, txt = self._double(img, txt, told, pe, mask, x, inputs, hooks)
        length = txt.shape[1]
        img = torch.cat((txt, img), dim=1)
        del txt
        return self._single(img, length, told, pe, mask, outputs, hooks)[:, length:]

    def _double(
        self,
        img: Tensor,
        txt: Tensor,
        told: Any,
        pe: Tensor,
        mask: Tensor | None,
        x: Tensor,
        residuals: Sequence[Tensor | None],
        hooks: Hooks,
    ) -> tuple[Tensor, Tensor]:
        """Patches and text after the blocks of two streams; written over, unless someone looks on."""
        watched = bool(hooks.at("double_block") or hooks.at("post_input"))
        for number, block in enumerate(self.double_blocks):
            hooks.note(block_index=number)
            vec = self.double_told(told, number)
            replacement = hooks.block_replacement("double_block", number)
            if replacement is not None:
                args = {"img": img, "txt": txt, "vec": vec, "pe": pe, "attn_mask": mask, "transformer_options": hooks}
                found = replacement(args, {"original_block": as_function(block, hooks)})
                img, txt = found["img"], found["txt"]
            elif isinstance(block, DoubleStreamBlock) and untouched(block, _OF_DOUBLE) and not watched:
                img, txt = block.over(img, txt, vec, pe, mask, hooks)
            else:
                img, txt = block(img=img, txt=txt, vec=vec, pe=pe, attn_mask=mask, transformer_options=hooks)
            for patch in hooks.at("double_block"):
                found = patch({"img": img, "txt": txt, "x": x, "vec": vec, "block_index": number,
                               "transformer_options": hooks})  # fmt: skip
                img, txt = found["img"], found["txt"]
            img = with_residual(img, residuals, number, 0)
        return img, txt

    def _single(
        self,
        img: Tensor,
        text: int,
        told: Any,
        pe: Tensor,
        mask: Tensor | None,
        residuals: Sequence[Tensor | None],
        hooks: Hooks,
    ) -> Tensor:
        """The one stream after its blocks. text: how many of its tokens are text's."""
        watched = bool(hooks.at("single_block"))
        for number, block in enumerate(self.single_blocks):
            hooks.note(block_index=number)
            vec = self.single_told(told, number)
            replacement = hooks.block_replacement("single_block", number)
            if replacement is not None:
                args = {"img": img, "vec": vec, "pe": pe, "attn_mask": mask, "transformer_options": hooks}
                img = replacement(args, {"original_block": as_function(block, hooks)})["img"]
            elif isinstance(block, SingleStreamBlock) and untouched(block, _OF_SINGLE) and not watched:
                img = block.over(img, vec, pe, mask, hooks)
            else:
                img = block(img, vec=vec, pe=pe, attn_mask=mask, transformer_options=hooks)
            for patch in hooks.at("single_block"):
                img = patch({"img": img, "vec": vec, "block_index": number, "transformer_options": hooks})["img"]
            img = with_residual(img, residuals, number, text)
        return img


def embedded(times: Tensor, width: int) -> Tensor:
    """Times of 0 … 1 as cosines and sines: (B,) → (B, width), float32."""
    return timestep_embedding(times.float() * 1000, width)


def with_residual(img: Tensor, residuals: Sequence[Tensor | None], number: int, start: int) -> Tensor:
    """The stream with a control's residual added to its patches, which begin at `start`; pictures to go by get none."""
    residual = residuals[number] if number < len(residuals) else None
    if residual is None:
        return img
    behind = img.shape[1] - start - residual.shape[1]
    return img + F.pad(residual.to(img.dtype), (0, 0, start, behind))


def as_function(block: nn.Module, hooks: Hooks) -> Callable[[Mapping[str, Any]], dict[str, Tensor]]:
    """A block as packs call it that take its place."""

    def original_block(args: Mapping[str, Any]) -> dict[str, Tensor]:
        told = {"vec": args["vec"], "pe": args["pe"], "attn_mask": args.get("attn_mask"), "transformer_options": hooks}
        if "txt" not in args:
            return {"img": block(args["img"], **told)}
        return dict(zip(("img", "txt"), block(args["img"], args["txt"], **told), strict=True))

    return original_block


# -- other names for the same weights ---------------------------------------------------------------------------------

_ENDS = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "proj_out": "final_layer.linear",
}


class _Names(NamedTuple):
    """Of one kind of block: layers and norms, theirs → ours; layers of which theirs are parts, ours → theirs."""

    layers: Mapping[str, str]
    norms: Mapping[str, str]
    parts: Mapping[str, Sequence[str]]


_DOUBLE = _Names(
    layers={
        "norm1.linear": "img_mod.lin", "attn.to_out.0": "img_attn.proj",
        "ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2",
        "norm1_context.linear": "txt_mod.lin", "attn.to_add_out": "txt_attn.proj",
        "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2",
    },
    norms={
        "attn.norm_q": "img_attn.norm.query_norm", "attn.norm_k": "img_attn.norm.key_norm",
        "attn.norm_added_q": "txt_attn.norm.query_norm", "attn.norm_added_k": "txt_attn.norm.key_norm",
    },
    parts={
        "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    },
)  # fmt: skip
_SINGLE = _Names(
    layers={"norm.linear": "modulation.lin", "proj_out": "linear2"},
    norms={"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"},
    parts={"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")},
)


def diffusers_targets(depth: int, single: int, width: int, inner: int) -> dict[str, Target]:
    """The diffusers library's name of every tensor → where it belongs. inner: width inside the feed-forward."""
    found: dict[str, Target] = {}

    def fused(there: str, parts: Sequence[str], here: str) -> None:
        for place, part in enumerate(parts):
            found[f"{there}.{part}"] = Part(here, place * width, inner if part.startswith("proj_mlp") else width)

    for leaf in ("weight", "bias"):
        found |= {f"{theirs}.{leaf}": f"{ours}.{leaf}" for theirs, ours in _ENDS.items()}
        found[f"norm_out.linear.{leaf}"] = Part(f"final_layer.adaLN_modulation.1.{leaf}", swapped=True)
        for there, here, names in _blocks(depth, single):
            found |= {f"{there}.{theirs}.{leaf}": f"{here}.{ours}.{leaf}" for theirs, ours in names.layers.items()}
            for ours, theirs in names.parts.items():
                fused(there, [f"{name}.{leaf}" for name in theirs], f"{here}.{ours}.{leaf}")
    for there, here, names in _blocks(depth, single):
        found |= {f"{there}.{theirs}.weight": f"{here}.{ours}.scale" for theirs, ours in names.norms.items()}
    return found


def _blocks(depth: int, single: int) -> Iterator[tuple[str, str, _Names]]:
    """For each block its name there and here, and the names inside it."""
    for number in range(depth):
        yield f"transformer_blocks.{number}", f"double_blocks.{number}", _DOUBLE
    for number in range(single):
        yield f"single_transformer_blocks.{number}", f"single_blocks.{number}", _SINGLE


def from_diffusers(header: CheckpointHeader) -> Mapping[str, Target]:
    """The targets of a header in the diffusers library's layout."""
    shapes = header.shapes()
    return diffusers_targets(
        count_whole(shapes, "transformer_blocks.{}."),
        count_whole(shapes, "single_transformer_blocks.{}."),
        shape(shapes, "x_embedder.weight", 2)[0],
        shape(shapes, "transformer_blocks.0.ff.net.0.proj.weight", 2)[0],
    )


def lora_aliases(config: Any, names: Sequence[str]) -> Mapping[str, Target]:
    """Diffusers' names of those weights that the network has."""
    inner = int(config.hidden_size * config.mlp_ratio)
    targets = diffusers_targets(config.depth, config.depth_single_blocks, config.hidden_size, inner)
    return weights_alone(targets, names)


LORA = LoraNames(
    lora_aliases, ("transformer.{dots}", "lycoris_{flat}", "lora_transformer_{flat}"), parts=parts,
    signs=("double_blocks_", "single_blocks_", "single_transformer_blocks_"), layouts=LAYOUTS,
)  # fmt: skip

# -- the families -----------------------------------------------------------------------------------------------------


def combine(outputs: Mapping[str, Encoded]) -> Encoded:
    """What T5 says of each token, and the vector that CLIP-L gives the whole text."""
    return outputs["t5xxl"]._replace(pooled=outputs["clip_l"].pooled)


TEXT = TextEncoding(
    types=("flux",),
    parts=(
        TextPart("clip_l", "l", ("text_encoders.clip_l.",), EncodeSettings()),
        TextPart(
            "t5xxl",
            "t5xxl",
            ("text_encoders.t5xxl.",),
            EncodeSettings(start=-1, end=1, pad=0),
            RowSettings(min_length=256, max_length=None, pad_to_max=False),
        ),
    ),
    combine=combine,
)


def distilled(diffusion: CheckpointHeader, whole: CheckpointHeader) -> Prediction:  # noqa: ARG001
    """A rectified flow, shifted towards noise by a fixed mean."""
    return Prediction("flux", {"shift": 1.15})


def few_steps(diffusion: CheckpointHeader, whole: CheckpointHeader) -> Prediction:  # noqa: ARG001
    """A rectified flow without a shift."""
    return Prediction("flow", {"shift": 1.0, "multiplier": 1.0})


def concat(config: FluxConfig) -> tuple[str, ...]:
    """What the extra input channels are: a picture to go by, or the picture to fill and where."""
    extra = config.in_channels - config.out_channels
    if extra <= 0:
        return ()
    return ("scaled_image",) if extra <= 2 * config.out_channels else ("scaled_image", "pixel_mask")


def grown(config: FluxConfig, shapes: Shapes) -> FluxConfig:
    """The config with as many input channels as a LoRA has given the first layer."""
    width = shapes.get("img_in.weight", (0, 0))[1]
    return replace(config, in_channels=max(width // config.patch_size**2, config.in_channels))


def conditions_of(guidance: float) -> Callable[[BaseModel, Mapping[str, Any]], dict[str, Any]]:
    """What the network is told of one condition. guidance: where the condition does not say it."""

    def conditions(model: BaseModel, entries: Mapping[str, Any]) -> dict[str, Any]:
        """Text, its vector and mask, what is joined to the latent, guidance, pictures to go by in model space."""
        found = standard_conditions(model, entries)
        strength = entries.get("guidance", guidance)
        if strength is not None:
            found["guidance"] = torch.tensor([float(strength)])
        if entries.get("attention_mask") is not None:
            found["attention_mask"] = mask_of_all(entries["attention_mask"], entries)
        return found | reference_conditions(model, entries)

    return conditions


def mask_of_all(mask: Tensor, entries: Mapping[str, Any]) -> Tensor:
    """A mask of text and patches, made for a picture of `attention_mask_img_shape` patches, for the latent's size."""
    size = entries.get("attention_mask_img_shape")
    rows, columns = (-(-side // 2) for side in entries["noise"].shape[-2:])
    if size is None or tuple(size) == (rows, columns):
        return mask
    return resized_mask(mask, tuple(size), (rows, columns))


def _six_fold(header: CheckpointHeader) -> bool:
    """Picture, picture to fill and 64 channels of its mask: 96 for 16."""
    first, last = (header.shapes().get(f"{name}.weight", (0, 0)) for name in ("img_in", "final_layer.linear"))
    return first[-1] == 6 * last[0] > 0


FLUX = Family(
    name="flux",
    title="Flux",
    marks=(
        has("double_blocks.0.img_attn.norm.key_norm.scale"),
        has("img_in.weight"),
        has("final_layer.adaLN_modulation.1.weight"),
        has("guidance_in.in_layer.weight"),
        lacks("controlnet_blocks.0.weight"),
        lacks("txt_in.individual_token_refiner.blocks.0.norm1.weight"),
    ),
    infer_config=lambda header, overrides: FluxConfig.from_state(header.shapes(), overrides),
    network=Flux,
    prediction=distilled,
    latent=FORMATS["Flux"],
    text=TEXT,
    vae_prefixes=("vae.", "first_stage_model."),
    conditions=conditions_of(3.5),
    vector=lambda model, entries: entries.get("pooled_output"),  # noqa: ARG005
    context_width=lambda config: config.context_in_dim,
    concat=concat,
    grown=grown,
    diffusers=DiffusersLayout(
        (
            has("x_embedder.weight"),
            has("single_transformer_blocks.0.proj_mlp.weight"),
            lacks("controlnet_blocks.0.weight"),
        ),
        from_diffusers,
    ),
    lora=LORA,
    legacy=lambda config: {"image_model": "flux"},  # noqa: ARG005
    dtypes=(torch.bfloat16, torch.float16, torch.float32),
    memory_factor=0.5,  # measured: benchmarks/memory_formula.py
    memory_text=8.0,
)
FILL = replace(
    FLUX,
    name="flux_fill",
    title="Flux Fill",
    marks=(*FLUX.marks, Mark("six times as many input as output channels", _six_fold)),
    dtypes=(torch.bfloat16, torch.float32),
    memory_factor=0.54,  # what is joined to the latent is six times as wide
)
SCHNELL = replace(
    FLUX,
    name="flux_schnell",
    title="Flux schnell",
    marks=tuple(lacks("guidance_in.in_layer.weight") if "guidance_in" in mark.name else mark for mark in FLUX.marks),
    prediction=few_steps,
)
FAMILIES = (FLUX, FILL, SCHNELL)
