"""T5's encoder. Raffel et al. 2020, "Exploring the limits of transfer learning with a text-to-text transformer".

Version 1.1 (gated feed-forward), the first version, and the multilingual ones whose layers each have a relative bias
of their own (Chung et al. 2023, "UniMax"). Attribute names are the keys of the published checkpoints
(`encoder.block.0.layer.0.SelfAttention.q.weight` …, `shared.weight`).

Shape letters: B rows, L tokens in a row, D width, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput
from limner.models.layers.shapes import Overrides, Shapes, agree, count, shape
from limner.models.text import vocabulary
from limner.models.text.kinds import EncoderKind, Special, TextOutput
from limner.models.text.working import Rows, of_layers
from limner.weights.header import CheckpointHeader
from limner.weights.ops import Embedding, Linear

_BLOCK = "encoder.block.{}."
_ATTENTION = _BLOCK + "layer.0.SelfAttention."
_FEED_FORWARD = _BLOCK + "layer.1.DenseReluDense."
_BIAS = _ATTENTION + "relative_attention_bias.weight"
_TABLE = "shared.weight"
LARGEST = 65_000.0
"""Of float16, with some room."""
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
}


@dataclass(frozen=True)
class T5Config:
    """The dimensions of an encoder; the defaults are T5 XXL's, version 1.1. Names are those of the config files."""

    vocab_size: int = 32128
    d_model: int = 4096
    d_kv: int = 64
    d_ff: int = 10240
    num_layers: int = 24
    num_heads: int = 64
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    dense_act_fn: str = "gelu_pytorch_tanh"
    is_gated_act: bool = True
    own_bias: bool = False  # whether each layer has a relative bias of its own, instead of the first one's for all

    @classmethod
    def from_state(cls, shapes: Shapes, overrides: Overrides) -> T5Config:
        """Read the dimensions off the tensors of an encoder.

        overrides: entries of the published config; dense_act_fn (by rule tanh-GELU where gated, ReLU where not),
        layer_norm_epsilon and relative_attention_max_distance are taken from it, what shapes tell must agree with it.

        Raises BadInput when a tensor is missing or the overrides contradict the shapes.
        """
        vocab, width = shape(shapes, _TABLE, 2)
        buckets, heads = shape(shapes, _BIAS.format(0), 2)
        gated = _FEED_FORWARD.format(0) + "wi_0.weight" in shapes
        inner = shape(shapes, _FEED_FORWARD.format(0) + ("wi_0.weight" if gated else "wi.weight"), 2)[0]
        layers = count(shapes, "encoder.block.{}.")
        config = cls(
            vocab_size=vocab,
            d_model=width,
            d_kv=shape(shapes, _ATTENTION.format(0) + "q.weight", 2)[0] // heads,
            d_ff=inner,
            num_layers=layers,
            num_heads=heads,
            relative_attention_num_buckets=buckets,
            relative_attention_max_distance=int(overrides.get("relative_attention_max_distance") or 128),
            layer_norm_epsilon=float(overrides.get("layer_norm_epsilon") or 1e-6),
            dense_act_fn=str(overrides.get("dense_act_fn") or ("gelu_pytorch_tanh" if gated else "relu")),
            is_gated_act=gated,
            own_bias=layers > 1 and _BIAS.format(1) in shapes,
        )
        for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "is_gated_act",
                     "relative_attention_num_buckets"):  # fmt: skip
            agree(overrides, name, getattr(config, name))
        if config.dense_act_fn not in _ACTIVATIONS:
            known = ", ".join(_ACTIVATIONS)
            raise BadInput(f"Unknown dense_act_fn {config.dense_act_fn!r}.", why=f"Known are {known}.")
        return config


class Norm(nn.Module):
    """Root-mean-square normalization in float32, whatever flows in. Zhang & Sennrich 2019."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, D) → the same shape."""
        scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        normed = (x * scale).to(x.dtype)
        return normed * self.weight.to(x.dtype)


class SelfAttention(nn.Module):
    """Self-attention whose scores are not divided by anything; a learned bias tells them how far tokens are apart."""

    def __init__(self, config: T5Config, biased: bool) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.config = config
        self.q = Linear(config.d_model, inner, bias=False)
        self.k = Linear(config.d_model, inner, bias=False)
        self.v = Linear(config.d_model, inner, bias=False)
        self.o = Linear(inner, config.d_model, bias=False)
        self.relative_attention_bias = (
            Embedding(config.relative_attention_num_buckets, config.num_heads) if biased else None
        )

    def bias(self, length: int, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """What this layer's table adds to the scores of a row of this length: (1, H, L, L); None where it has none."""
        if self.relative_attention_bias is None:
            return None
        places = torch.arange(length, device=device)
        bucket = buckets(
            places[None] - places[:, None],
            self.config.relative_attention_num_buckets,
            self.config.relative_attention_max_distance,
        )
        return self.relative_attention_bias(bucket, dtype).permute(2, 0, 1)[None]

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: (B, L, D) → the same shape. bias: (1 or B, H, L, L), added to the scores."""
        heads = self.config.num_heads
        q, k, v = (layer(x).view(*x.shape[:2], heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return self.o(out.transpose(1, 2).flatten(2))


def buckets(distance: Tensor, number: int, farthest: int) -> Tensor:
    """Which row of the bias table a distance (key − query) takes: one for each small distance, then logarithmically.

    Half of the rows are for keys behind the query. Distances of `farthest` and more share the last row.
    """
    half = number // 2
    exact = half // 2
    far = distance.abs()
    steps = torch.log(far.clamp(min=1).float() / exact) / math.log(farthest / exact) * (half - exact)
    coarse = (exact + steps.to(torch.int64)).clamp(max=half - 1)
    return (distance > 0) * half + torch.where(far < exact, far, coarse)


class GatedFeedForward(nn.Module):
    """Two linear layers with a gate between. Shazeer 2020, "GLU variants improve transformer"."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi_0 = Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = Linear(config.d_model, config.d_ff, bias=False)
        self.wo = Linear(config.d_ff, config.d_model, bias=False)
        self.activation = _ACTIVATIONS[config.dense_act_fn]

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, D) → the same shape. What the largest models multiply here is too large for float16."""
        inner, gate = self.activation(self.wi_0(x)), self.wi_1(x)
        if x.dtype == torch.float16:
            return self.wo(inner.float().mul_(gate)).clamp_(-LARGEST, LARGEST).half()
        return self.wo(inner.mul_(gate))


class FeedForward(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi = Linear(config.d_model, config.d_ff, bias=False)
        self.wo = Linear(config.d_ff, config.d_model, bias=False)
        self.activation = _ACTIVATIONS[config.dense_act_fn]

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, D) → the same shape."""
        return self.wo(self.activation(self.wi(x)))


class AttentionLayer(nn.Module):
    """Self-attention, normalised before and added after."""

    def __init__(self, config: T5Config, biased: bool) -> None:
        super().__init__()
        self.SelfAttention = SelfAttention(config, biased)
        self.layer_norm = Norm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: (B, L, D) → the same shape."""
        return x + self.SelfAttention(self.layer_norm(x), bias)


class FeedForwardLayer(nn.Module):
    """Feed-forward, normalised before and added after."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = GatedFeedForward(config) if config.is_gated_act else FeedForward(config)
        self.layer_norm = Norm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, D) → the same shape; in float16 cut to what that can hold."""
        x = x + self.DenseReluDense(self.layer_norm(x))
        return x.clamp(-LARGEST, LARGEST) if x.dtype == torch.float16 else x


class Block(nn.Module):
    """One layer of the encoder."""

    def __init__(self, config: T5Config, biased: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([AttentionLayer(config, biased), FeedForwardLayer(config)])

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: (B, L, D) → the same shape."""
        found: Tensor = self.layer[1](self.layer[0](x, bias))
        return found

    @property
    def attention(self) -> SelfAttention:
        """The attention of its first half."""
        return cast(AttentionLayer, self.layer[0]).SelfAttention


class Encoder(nn.Module):
    """The layers, one after another, and the final normalization."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.block = nn.ModuleList(Block(config, config.own_bias or number == 0) for number in range(config.num_layers))
        self.final_layer_norm = Norm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x: Tensor, mask: Tensor | None, keep: int | None) -> tuple[Tensor, Tensor | None]:
        """x after the last layer, and after layer number `keep`. mask: (B, 1, 1, L), added to the scores."""
        kept, bias = None, x.new_zeros(())
        for number, block in enumerate(self.block):
            own = cast(Block, block).attention.bias(x.shape[1], x.device, x.dtype)
            if own is not None:
                bias = own if mask is None else own + mask
            x = block(x, bias)
            if number == keep:
                kept = x
        return x, kept


class T5Text(nn.Module):
    """Rows of tokens to vectors that picture models are conditioned on."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder = Encoder(config)

    @property
    def depth(self) -> int:
        """How many layers."""
        return self.config.num_layers

    @property
    def width(self) -> int:
        """Of a token's vector."""
        return self.config.d_model

    @property
    def longest(self) -> None:
        """Rows may be of any length."""

    def embed(self, token_ids: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The vectors of ids (B, L): (B, L, D), in the table's dtype or the one given."""
        return self.shared(token_ids, dtype)

    def forward(
        self,
        token_ids: Tensor,
        layer: int | None = None,
        *,
        embeds: Tensor | None = None,
        final_norm: bool = False,
        attention_mask: Tensor | None = None,
    ) -> TextOutput:
        """Encode rows of tokens, in the dtype of the token vectors.

        token_ids: (B, L). layer: whose output `hidden` is: -1 the last one's …; final_norm: whether that is normalised.
        embeds: (B, L, D), in place of the ids' vectors. attention_mask: (B, L), false where a token is not seen.
        """
        x = self.embed(token_ids) if embeds is None else embeds
        keep = None if layer is None else layer % self.config.num_layers
        mask = None
        if attention_mask is not None:
            hidden_from_all = ~attention_mask.bool()[:, None, None, :]
            mask = torch.zeros(hidden_from_all.shape, dtype=x.dtype, device=x.device)
            mask = mask.masked_fill(hidden_from_all, torch.finfo(x.dtype).min)
        x, hidden = self.encoder(x, mask, keep)
        if hidden is not None and final_norm:
            hidden = self.encoder.final_layer_norm(hidden)
        return TextOutput(self.encoder.final_layer_norm(x), hidden)


# -- kinds ------------------------------------------------------------------------------------------------------------


def convert(header: CheckpointHeader) -> CheckpointHeader:
    """The encoder alone, with its table under the name `shared`; files of the whole model have a decoder besides."""
    if not any("SelfAttention" in name for name in header):
        return header
    bare = header.rename(lambda name: name.removeprefix("transformer."))
    table = "encoder.embed_tokens.weight"
    if _TABLE not in bare and table in bare:
        bare = bare.rename(lambda name: _TABLE if name == table else name)
    return bare.rename(lambda name: name if name == _TABLE or _of_encoder(name) else None)


def _of_encoder(name: str) -> bool:
    return name.startswith("encoder.") and name != "encoder.embed_tokens.weight"


MULTILINGUAL = 200_000
"""Entries of a vocabulary; the English ones have 32,128."""
BYTES = 2_000
"""Entries of a vocabulary of bytes are fewer."""


def _is(gated: bool, own_bias: bool, least: int = BYTES, most: int = MULTILINGUAL, deep: bool | None = None
        ) -> Callable[[CheckpointHeader], bool]:  # fmt: skip
    """Whether a header is an encoder of this structure, with a vocabulary of this size and 24 layers or fewer."""

    def recognise(header: CheckpointHeader) -> bool:
        return (
            _fits(header)
            and (_FEED_FORWARD.format(0) + "wi_1.weight" in header) is gated
            and (_BIAS.format(1) in header) is own_bias
            and least <= header.shape(_TABLE)[0] < most
            and (deep is None or (_BIAS.format(23).replace("relative_attention_bias", "q") in header) is deep)
        )

    return recognise


def _fits(header: CheckpointHeader) -> bool:
    return _TABLE in header and _BIAS.format(0) in header


def _lora(name: str, others: frozenset[str]) -> Sequence[str]:
    """T5 is the second text encoder beside one CLIP, the third beside two; beside CLIP-L files call it either."""
    flat = name.replace(".", "_")
    numbers = ("123", "23", "3")[len(others & {"clip_l", "clip_g"})]
    return [f"lora_te{number}_{flat}" for number in numbers]


def working(shapes: Shapes, rows: Rows) -> float:
    """The layers', with the biases of all scores (with the padding's, of each row; of two layers where each has its
    own), and in float16 with the last matrix of a gated feed-forward and its input in float32.
    """
    heads, first = shape(shapes, _BIAS.format(0), 2)[1], _FEED_FORWARD.format(0)
    more = rows.rows if rows.masked else int(_BIAS.format(1) in shapes)
    biases = heads * rows.length**2 * (1 + more) * rows.dtype.itemsize
    if first + "wi_0.weight" not in shapes or rows.dtype != torch.float16:
        return of_layers(shapes, rows, _TABLE, first) + biases
    width, inner = shapes[first + "wo.weight"]
    return of_layers(shapes, rows, _TABLE, first, 4.5) + biases + width * inner * torch.float32.itemsize


_XXL = EncoderKind(
    name="t5xxl",
    title="T5-XXL",
    convert=convert,
    recognise=_is(gated=True, own_bias=False),
    fits=_fits,
    config=T5Config.from_state,
    network=T5Text,
    table=_TABLE,
    special=Special(start=None, end=1, pad=0),
    vocabulary=vocabulary.T5,
    working=working,
    lora=_lora,
)


def _other(name: str, title: str, recognise: Callable[[CheckpointHeader], bool], end: int = 1, pad: int = 0
           ) -> EncoderKind:  # fmt: skip
    source = vocabulary.VocabularySource(name, title, mark="</s>")
    return replace(
        _XXL, name=name, title=title, recognise=recognise, special=Special(None, end, pad), vocabulary=source
    )


ENCODERS = (
    _XXL,
    replace(_XXL, name="t5xxl_old", title="T5-XXL of the first version", recognise=_is(False, False, deep=True)),
    replace(_XXL, name="t5base", title="T5-base", recognise=_is(False, False, deep=False)),
    _other("umt5xxl", "umT5", _is(True, True, MULTILINGUAL, 10**9)),
    _other("pile_t5xl", "Pile-T5", _is(True, True), end=2, pad=1),
    _other("mt5xl", "mT5", _is(True, False, MULTILINGUAL, 10**9)),
    _other("byt5_small_glyph", "byT5", _is(True, False, 0, BYTES)),
)
