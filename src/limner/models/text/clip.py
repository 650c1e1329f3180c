"""The text encoder of CLIP. Radford et al. 2021, "Learning transferable visual models from language supervision".

A causal transformer over byte-pair tokens. Attribute names are the keys of the published checkpoints
(`text_model.encoder.layers.0.self_attn.q_proj.weight` …, `text_projection.weight`).

Shape letters: B rows, L tokens in a row (77), D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput
from limner.models.convert import clip_text
from limner.models.layers.attention import attention
from limner.models.layers.shapes import Overrides, Shapes, agree, count, shape
from limner.models.text import vocabulary
from limner.models.text.kinds import EncoderKind, Special, TextOutput
from limner.models.text.working import of_layers
from limner.weights.header import CheckpointHeader
from limner.weights.ops import Embedding, LayerNorm, Linear


def quick_gelu(x: Tensor) -> Tensor:
    """The approximation of GELU that OpenAI's models were trained with."""
    return x * torch.sigmoid(1.702 * x)


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation function of a `hidden_act`. Raises BadInput for an unknown name."""
    if name == "quick_gelu":
        return quick_gelu
    if name == "gelu":
        return F.gelu
    raise BadInput(f"Unknown hidden_act {name!r}.", why="A CLIP text encoder has quick_gelu or gelu.")


@dataclass(frozen=True)
class CLIPTextConfig:
    """The dimensions of a text encoder; the defaults are CLIP-L's. Names are those of the published config files."""

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    missing_layers: int = 0  # the published model's last ones, which a file may leave out where nobody reads them
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    projection_dim: int | None = None  # width of text_projection; None where the file has none
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407  # the pooled vector is taken at the first of these

    @classmethod
    def from_state(cls, shapes: Shapes, overrides: Overrides, hidden_act: str = "quick_gelu") -> CLIPTextConfig:
        """Read the dimensions off the tensors of a bare text encoder.

        overrides: entries of the published config; num_attention_heads (by rule width / 64), hidden_act,
        layer_norm_eps and eos_token_id (49407) are taken from it, what shapes tell must agree with it.
        hidden_act: the kind's activation.

        Raises BadInput when a tensor is missing or the overrides contradict the shapes.
        """
        vocab, width = shape(shapes, "text_model.embeddings.token_embedding.weight", 2)
        projection = "text_projection.weight"
        config = cls(
            vocab_size=vocab,
            hidden_size=width,
            intermediate_size=shape(shapes, "text_model.encoder.layers.0.mlp.fc1.weight", 2)[0],
            num_hidden_layers=count(shapes, "text_model.encoder.layers.{}."),
            num_attention_heads=int(overrides.get("num_attention_heads") or max(1, width // 64)),
            max_position_embeddings=shape(shapes, "text_model.embeddings.position_embedding.weight", 2)[0],
            projection_dim=shape(shapes, projection, 2)[0] if projection in shapes else None,
            hidden_act=str(overrides.get("hidden_act") or hidden_act),
            layer_norm_eps=float(overrides.get("layer_norm_eps") or 1e-5),
            eos_token_id=int(overrides.get("eos_token_id", 49407)),
        )
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings"):
            agree(overrides, name, getattr(config, name))
        if config.projection_dim is not None:
            agree(overrides, "projection_dim", config.projection_dim)
        activation(config.hidden_act)
        if width % config.num_attention_heads:
            raise BadInput(
                f"{width} channels cannot be split into {config.num_attention_heads} attention heads.",
                do="Give a num_attention_heads in the file's `config` that divides the width.",
            )
        return config


class Embeddings(nn.Module):
    """Tables of token and position vectors."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, vectors: Tensor) -> Tensor:
        """Token vectors (B, L, D) with those of their positions added."""
        length, longest = vectors.shape[1], self.position_embedding.num_embeddings
        if length > longest:
            raise BadInput(
                f"A row has {length} tokens.",
                why=f"This text encoder knows {longest} positions.",
                do="Split the prompt into rows of that length.",
            )
        places = torch.arange(length, device=vectors.device)
        return vectors + self.position_embedding(places, vectors.dtype)


class SelfAttention(nn.Module):
    """Self-attention in which a token sees itself and those before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (B, L, D) → the same shape. mask: (B, 1, L, L), true where seen; causal where None."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.out_proj(attention(q, k, v, self.heads, mask, causal=mask is None))


class MLP(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, width: int, inner: int, hidden_act: str) -> None:
        super().__init__()
        self.activation = activation(hidden_act)
        self.fc1 = Linear(width, inner)
        self.fc2 = Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, D) → the same shape."""
        return self.fc2(self.activation(self.fc1(x)))


class Layer(nn.Module):
    """Self-attention and feed-forward, each normalised before and added after."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm1 = LayerNorm(width, eps=eps)
        self.self_attn = SelfAttention(width, config.num_attention_heads)
        self.layer_norm2 = LayerNorm(width, eps=eps)
        self.mlp = MLP(width, config.intermediate_size, config.hidden_act)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (B, L, D) → the same shape."""
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """The layers, one after another."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, mask: Tensor | None, keep: int | None) -> tuple[Tensor, Tensor | None]:
        """x after the last layer, and after layer number `keep`."""
        kept = None
        for number, layer in enumerate(self.layers):
            x = layer(x, mask)
            if number == keep:
                kept = x
        return x, kept


class TextModel(nn.Module):
    """Embeddings, layers, final normalization: the part of the keys under `text_model.`."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class CLIPText(nn.Module):
    """Rows of tokens to vectors that picture models are conditioned on."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextModel(config)
        self.text_projection = (
            None if config.projection_dim is None else Linear(config.hidden_size, config.projection_dim, bias=False)
        )

    @property
    def depth(self) -> int:
        """How many layers, with those that the file leaves out."""
        return self.config.num_hidden_layers + self.config.missing_layers

    @property
    def width(self) -> int:
        """Of a token's vector."""
        return self.config.hidden_size

    @property
    def longest(self) -> int:
        """Tokens in a row."""
        return self.config.max_position_embeddings

    def embed(self, token_ids: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The token vectors of ids (B, L), without positions: (B, L, D), in the table's dtype or the one given.

        Textual inversion puts its own vectors into the result and hands it to `forward` as `embeds`.
        """
        return self.text_model.embeddings.token_embedding(token_ids, dtype)

    def forward(
        self,
        token_ids: Tensor,
        layer: int | None = None,
        *,
        embeds: Tensor | None = None,
        final_norm: bool = False,
        attention_mask: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> TextOutput:
        """Encode rows of tokens, in `dtype` or that of the token vectors.

        token_ids:      (B, L) integers.
        layer:          which layer's output `hidden` is: -1 the last one's, -2 the one before …; None for no hidden.
        embeds:         (B, L, D), vectors that stand in for those of the ids (see `embed`); the ids are then only
                        used to find the end token.
        final_norm:     whether `hidden` goes through the final normalization.
        attention_mask: (B, L), zero or false where a token is padding and must not be seen; None where all are.

        Raises BadInput when there is no such layer or a row is too long.
        """
        x = self.embed(token_ids) if embeds is None else embeds
        if dtype is not None:
            x = x.to(dtype)
        x = self.text_model.embeddings(x)
        mask = None if attention_mask is None else _causal_and(attention_mask)
        x, hidden = self.text_model.encoder(x, mask, self._layer_number(layer))
        last = self.text_model.final_layer_norm(x)
        if hidden is not None and final_norm:
            hidden = self.text_model.final_layer_norm(hidden)
        pooled = last[torch.arange(len(last), device=last.device), self._ends(token_ids)]
        return TextOutput(last, hidden, pooled, None if self.text_projection is None else self.text_projection(pooled))

    def _layer_number(self, layer: int | None) -> int | None:
        layers = self.depth
        if layer is None:
            return None
        if -layers <= layer < layers:
            return min(layer % layers, self.config.num_hidden_layers - 1)
        raise BadInput(f"There is no layer {layer}.", why=f"This text encoder has {layers} layers.")

    def _ends(self, token_ids: Tensor) -> Tensor:
        """The position of the first end token of each row; the first position where there is none. (B,)"""
        return (token_ids == self.config.eos_token_id).int().argmax(dim=1)


def _causal_and(attention_mask: Tensor) -> Tensor:
    """(B, L) of what is no padding → (B, 1, L, L), true where a token also comes no later than the one that looks."""
    length = attention_mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=attention_mask.device).tril()
    return causal & attention_mask.bool()[:, None, None, :]


# -- kinds ------------------------------------------------------------------------------------------------------------

_LAYER = "text_model.encoder.layers.{}.mlp.fc1.weight"
_TABLE = "text_model.embeddings.token_embedding.weight"
_LORA_MODULES = (
    "mlp.fc1", "mlp.fc2", "self_attn.k_proj", "self_attn.q_proj", "self_attn.v_proj", "self_attn.out_proj",
)  # fmt: skip


def _deep(least: int, below: int | None) -> Callable[[CheckpointHeader], bool]:
    """Whether a header has the layer of this number, and not the other."""

    def recognise(header: CheckpointHeader) -> bool:
        return _LAYER.format(least) in header and (below is None or _LAYER.format(below) not in header)

    return recognise


def _fits(header: CheckpointHeader) -> bool:
    return _LAYER.format(0) in header and _TABLE in header


def _lora(*roots: str, projection: Sequence[str] = ()) -> Callable[[str, frozenset[str]], Sequence[str]]:
    """Names in LoRA files: the layers' modules under these roots, and the projection.

    A root that ends in "_" is followed by the name with underscores, any other by the name as it is.
    """

    def names(name: str, others: frozenset[str]) -> Sequence[str]:  # noqa: ARG001
        if name == "text_projection":
            return projection
        if not name.startswith("text_model.encoder.layers.") or name.split(".", 4)[4] not in _LORA_MODULES:
            return ()
        return [root + (name.replace(".", "_") if root.endswith("_") else name) for root in roots]

    return names


def _kind(
    name: str, title: str, recognise: Callable[[CheckpointHeader], bool], hidden_act: str, pad: int,
    lora: Callable[[str, frozenset[str]], Sequence[str]], layers: int | None = None,
) -> EncoderKind:  # fmt: skip
    """layers: of the published model, where files are about that leave out the last one."""

    def config(shapes: Shapes, overrides: Overrides) -> CLIPTextConfig:
        found = CLIPTextConfig.from_state(shapes, overrides, hidden_act)
        return replace(found, missing_layers=1) if found.num_hidden_layers + 1 == layers else found

    return EncoderKind(
        name=name,
        title=title,
        convert=clip_text,
        recognise=recognise,
        fits=_fits,
        config=config,
        network=CLIPText,
        table=_TABLE,
        special=Special(start=49406, end=49407, pad=pad),
        vocabulary=vocabulary.CLIP,
        working=partial(
            of_layers, table=_TABLE, feed_forward="layers.0.mlp.", inside=3.0 if hidden_act == "quick_gelu" else 2.0
        ),
        lora=lora,
    )


ENCODERS = (
    _kind("clip_l", "CLIP-L", _deep(0, 22), "quick_gelu", 49407,
          _lora("lora_te_", "lora_te1_", "text_encoder.", projection=("lora_te1_text_projection",))),
    _kind("clip_h", "CLIP-H", _deep(22, 30), "gelu", 0, _lora("lora_te_", "lora_te1_", "text_encoder."), layers=24),
    _kind("clip_g", "CLIP-G", _deep(30, None), "gelu", 0,
          _lora("lora_te2_", "text_encoder_2.",
                projection=("lora_prior_te_text_projection", "lora_te2_text_projection"))),
)  # fmt: skip
