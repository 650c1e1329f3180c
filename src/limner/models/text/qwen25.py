"""Qwen2.5-VL as a text encoder. Bai et al. 2025, "Qwen2.5-VL technical report".

A causal transformer with grouped queries; its positions have three axes (time, row, column), which are equal for text
and tell where a patch lies for pictures. Attribute names are the keys of the published checkpoints
(`model.layers.0.self_attn.q_proj.weight` …, `visual.blocks.0.attn.qkv.weight` …).

Shape letters: B rows, L tokens in a row, D width, H heads, W width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput
from limner.models.layers.shapes import Overrides, Shapes, agree, count, shape
from limner.models.text import vocabulary
from limner.models.text.kinds import EncoderKind, Seen, Special, TextOutput
from limner.models.text.qwen25_vision import VisionConfig, VisionTower, fitting, patches_of
from limner.models.text.working import MARGIN, Rows, of_layers
from limner.weights.header import CheckpointHeader
from limner.weights.ops import Embedding, Linear, RMSNorm

_LAYER = "model.layers.{}."
_TABLE = "model.embed_tokens.weight"
_VISUAL = "visual."
PICTURE = 151655
"""The token `<|image_pad|>`, in the place of which a picture stands."""


@dataclass(frozen=True)
class Qwen25Config:
    """The dimensions of the language model; the defaults are those of 7B. Names are those of the config files.

    rope_dims: how many of a head's frequencies turn with time, row and column. vision: of the tower that reads
    pictures; None where the file has none.
    """

    vocab_size: int = 152064
    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    head_dim: int = 128
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    rope_dims: tuple[int, ...] = (16, 24, 24)
    vision: VisionConfig | None = None

    @classmethod
    def from_state(cls, shapes: Shapes, overrides: Overrides) -> Qwen25Config:
        """Read the dimensions off the tensors of an encoder.

        overrides: entries of the published config; head_dim (128), rms_norm_eps, rope_theta and rope_dims, and the
        vision tower's under `vision_config`, are taken from it, what shapes tell must agree with it.

        Raises BadInput when a tensor is missing or the overrides contradict the shapes.
        """
        vocab, width = shape(shapes, _TABLE, 2)
        queries = shape(shapes, _LAYER.format(0) + "self_attn.q_proj.weight", 2)[0]
        keys = shape(shapes, _LAYER.format(0) + "self_attn.k_proj.weight", 2)[0]
        head = int(overrides.get("head_dim") or _head(queries, keys, overrides))
        tower = {name.removeprefix(_VISUAL): size for name, size in shapes.items() if name.startswith(_VISUAL)}
        config = cls(
            vocab_size=vocab,
            hidden_size=width,
            intermediate_size=shape(shapes, _LAYER.format(0) + "mlp.up_proj.weight", 2)[0],
            num_hidden_layers=count(shapes, "model.layers.{}."),
            num_attention_heads=queries // head,
            num_key_value_heads=keys // head,
            head_dim=head,
            rms_norm_eps=float(overrides.get("rms_norm_eps") or 1e-6),
            rope_theta=float(overrides.get("rope_theta") or 1_000_000.0),
            rope_dims=tuple(overrides.get("rope_dims") or _sections(head)),
            vision=VisionConfig.from_state(tower, overrides.get("vision_config") or {}) if tower else None,
        )
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                     "num_key_value_heads"):  # fmt: skip
            agree(overrides, name, getattr(config, name))
        if queries % head or keys % head or sum(config.rope_dims) * 2 != head:
            raise BadInput(
                f"Heads of {head} channels do not fit {queries} queries, {keys} keys and the sections "
                f"{list(config.rope_dims)}.",
                why="Each head has one width, and its frequencies are shared out among the three axes.",
                do="Give a `head_dim` and `rope_dims` in the file's config that fit.",
            )
        return config


def _head(queries: int, keys: int, overrides: Overrides) -> int:
    """The width of a head: what the config's number of heads makes it, else 128, or all there is where that is less."""
    heads = overrides.get("num_attention_heads")
    return queries // int(heads) if heads else min(128, keys)


def _sections(head: int) -> tuple[int, int, int]:
    """A quarter of the frequencies for time, three eighths each for row and column."""
    half = head // 2
    time = half // 4
    rows = (half - time) // 2
    return time, rows, half - time - rows


class Rotation:
    """Rotary positions over three axes. Su et al. 2021; Bai et al. 2025, section 2.1.2.

    positions: (3, L). It holds cosines and sines (L, W), float32.
    """

    def __init__(self, positions: Tensor, config: Qwen25Config) -> None:
        exponents = torch.arange(0, config.head_dim, 2, device=positions.device).float() / config.head_dim
        angles = positions[..., None].float() * config.rope_theta**-exponents
        parts = torch.split(angles, list(config.rope_dims), dim=-1)
        chosen = torch.cat([part[axis % 3] for axis, part in enumerate(parts)], dim=-1)
        both = torch.cat((chosen, chosen), dim=-1)
        self.cos, self.sin = both.cos(), both.sin()

    def turn(self, x: Tensor) -> Tensor:
        """x: (B, H, L, W), each half of a head's channels turned against the other."""
        first, second = x.float().chunk(2, dim=-1)
        return (x.float() * self.cos + torch.cat((-second, first), dim=-1) * self.sin).to(x.dtype)


class SelfAttention(nn.Module):
    """Self-attention in which several heads of queries share one of keys and values. Ainslie et al. 2023."""

    def __init__(self, config: Qwen25Config) -> None:
        super().__init__()
        width, head = config.hidden_size, config.head_dim
        self.head_dim = head
        self.groups = config.num_attention_heads // config.num_key_value_heads
        self.q_proj = Linear(width, config.num_attention_heads * head)
        self.k_proj = Linear(width, config.num_key_value_heads * head)
        self.v_proj = Linear(width, config.num_key_value_heads * head)
        self.o_proj = Linear(config.num_attention_heads * head, width, bias=False)

    def forward(self, x: Tensor, rotation: Rotation, mask: Tensor | None) -> Tensor:
        """x: (B, L, D) → the same shape. mask: (B, 1, L, L), true where seen; causal where None."""
        q, k, v = (
            layer(x).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotation.turn(q), rotation.turn(k)
        k, v = (part.repeat_interleave(self.groups, dim=1) for part in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with a gate between."""

    def __init__(self, config: Qwen25Config) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear(width, inner, bias=False)
        self.up_proj = Linear(width, inner, bias=False)
        self.down_proj = Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, D) → the same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)).mul_(self.up_proj(x)))


class Layer(nn.Module):
    """Self-attention and feed-forward, each normalised before and added after."""

    def __init__(self, config: Qwen25Config) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, rotation: Rotation, mask: Tensor | None) -> Tensor:
        """x: (B, L, D) → the same shape."""
        x = x + self.self_attn(self.input_layernorm(x), rotation, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    """Table, layers, final normalization: the part of the keys under `model.`."""

    def __init__(self, config: Qwen25Config) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class Qwen25Text(nn.Module):
    """Rows of tokens and pictures to vectors that picture models are conditioned on."""

    def __init__(self, config: Qwen25Config) -> None:
        super().__init__()
        self.config = config
        self.model = Model(config)
        self.visual = None if config.vision is None else VisionTower(config.vision)

    @property
    def depth(self) -> int:
        """How many layers."""
        return self.config.num_hidden_layers

    @property
    def width(self) -> int:
        """Of a token's vector."""
        return self.config.hidden_size

    @property
    def longest(self) -> None:
        """Rows may be of any length."""

    def embed(self, token_ids: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The vectors of ids (B, L): (B, L, D), in the table's dtype or the one given."""
        return self.model.embed_tokens(token_ids, dtype)

    def see(self, picture: Tensor, dtype: torch.dtype | None = None) -> Seen:
        """A picture (1, H, W, 3) in 0..1, on the tower's device, as vectors (N, D), in `dtype` or that of the tower.

        Raises BadInput where the file has no vision tower.
        """
        if self.visual is None:
            raise BadInput(
                "This text encoder cannot read pictures.",
                why="Its file lacks the vision tower (`visual.…`).",
                do="Use the file of Qwen2.5-VL with it, or leave the picture out.",
            )
        weight = self.visual.patch_embed.proj.weight
        patches, grid = patches_of(picture, self.visual.config)
        vectors = self.visual(patches.to(dtype or weight.dtype), grid)
        merge = self.visual.config.spatial_merge_size
        return Seen(vectors, (grid[0], grid[1] // merge, grid[2] // merge))

    def positions(
        self, length: int, pictures: Sequence[tuple[int, tuple[int, int, int]]], device: torch.device | None = None
    ) -> Tensor:
        """The positions (3, length) of a row: text counts on along all axes, a picture along its own.

        pictures: where each begins and its grid (frames, rows, columns). What follows a picture comes after the
        largest position in it.
        """
        found = torch.zeros(3, length, dtype=torch.int64, device=device)
        place = position = 0
        for start, (frames, rows, columns) in (*pictures, (length, (0, 0, 0))):
            text = start - place
            found[:, place:start] = torch.arange(position, position + text, device=device)
            position += text
            if not frames:
                break
            sides = (torch.arange(side, device=device) for side in (frames, rows, columns))
            axes = torch.meshgrid(*sides, indexing="ij")
            place = start + frames * rows * columns
            found[:, start:place] = torch.stack([axis.flatten() for axis in axes]) + position
            position += max(frames, rows, columns)
        return found

    def forward(
        self,
        token_ids: Tensor,
        layer: int | None = None,
        *,
        embeds: Tensor | None = None,
        final_norm: bool = False,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> TextOutput:
        """Encode rows of tokens, in the dtype of the token vectors.

        token_ids: (B, L). layer: whose output `hidden` is: -1 the last one's …; final_norm: whether that is normalised.
        embeds: (B, L, D), in place of the ids' vectors. attention_mask: (B, L), false where a token is not seen.
        positions: (3, L); 0, 1, 2 … along all axes where None.
        """
        x = self.embed(token_ids) if embeds is None else embeds
        length = x.shape[1]
        if positions is None:
            positions = torch.arange(length, device=x.device).expand(3, -1)
        rotation = Rotation(positions, self.config)
        keep = None if layer is None else layer % self.config.num_hidden_layers
        mask, hidden = None if attention_mask is None else _causal_and(attention_mask.bool()), None
        for number, block in enumerate(self.model.layers):
            x = block(x, rotation, mask)
            if number == keep:
                hidden = x
        if hidden is not None and final_norm:
            hidden = self.model.norm(hidden)
        return TextOutput(self.model.norm(x), hidden)


def _causal_and(seen: Tensor) -> Tensor:
    """(B, L) of what is no padding → (B, 1, L, L), true where a token also comes no later than the one that looks.

    Padding sees itself, as a token must see something.
    """
    length = seen.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=seen.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=seen.device)
    return (causal & seen[:, None, None, :]) | itself


# -- kinds ------------------------------------------------------------------------------------------------------------


def convert(header: CheckpointHeader) -> CheckpointHeader:
    """The language model and the vision tower under their first published names; the output layer is left out."""
    if not any(name.endswith("layers.0.self_attn.k_proj.bias") for name in header):
        return header

    def named(name: str) -> str | None:
        name = name.removeprefix("transformer.")
        for prefix, ours in _LATER_NAMES:
            if name.startswith(prefix):
                name = ours + name.removeprefix(prefix)
                break
        return name if name.startswith(("model.", _VISUAL)) else None

    return header.rename(named)


_LATER_NAMES = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("model.visual.", _VISUAL),
)


def _fits(header: CheckpointHeader) -> bool:
    return _TABLE in header and _LAYER.format(0) + "self_attn.k_proj.bias" in header


def _is(small: bool) -> Callable[[CheckpointHeader], bool]:
    """Whether a header is the 3B model, known by its two heads of keys, or the 7B model."""

    def recognise(header: CheckpointHeader) -> bool:
        return _fits(header) and (header.shape(_LAYER.format(0) + "self_attn.k_proj.bias")[0] == 256) is small

    return recognise


def working(shapes: Shapes, rows: Rows) -> float:
    """The layers', or before them those of the vision tower, whose turns are in float32."""
    width, _, _, patch, _ = shapes.get(f"{_VISUAL}patch_embed.proj.weight", (0, 0, 0, 14, 14))
    sides = [fitting(*picture, 2 * patch) for picture in rows.pictures]
    patches = [height * width // patch**2 for height, width in sides]
    seeing = (52 if rows.dtype.itemsize == 4 else 40) * width * max(patches, default=0) * MARGIN
    read = replace(rows, length=rows.length + sum(patches) // 4)
    return max(of_layers(shapes, read, _TABLE, "layers.0.mlp."), seeing)


_7B = EncoderKind(
    name="qwen25_7b",
    title="Qwen2.5-VL 7B",
    convert=convert,
    recognise=_is(small=False),
    fits=_fits,
    config=Qwen25Config.from_state,
    network=Qwen25Text,
    table=_TABLE,
    special=Special(start=None, end=None, pad=151643),
    vocabulary=vocabulary.QWEN,
    working=working,
    embeddings=False,
    picture=PICTURE,
)
ENCODERS = (_7B, replace(_7B, name="qwen25_3b", title="Qwen2.5-VL 3B", recognise=_is(small=True)))
