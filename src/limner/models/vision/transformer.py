"""The vision transformer of CLIP and SigLIP. Dosovitskiy et al. 2021; Radford et al. 2021; Zhai et al. 2023.

Square pictures are cut into patches; each is a token. Attribute names are the keys of transformers' checkpoints
(`vision_model.encoder.layers.0.self_attn.q_proj.weight` …, `visual_projection.weight`).

Shape letters: B pictures, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput
from limner.models.layers.activate import add_to
from limner.models.layers.attention import attention
from limner.models.layers.shapes import Overrides, Shapes, agree, count, shape
from limner.models.text.clip import quick_gelu
from limner.weights.ops import Conv2d, Embedding, LayerNorm, Linear

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
}
HEADS = 16
"""Of every published encoder, from 1024 channels up."""
COARSE = 128
"""Sizes of pictures that are no multiple of the patch are multiples of this."""


class Seen(NamedTuple):
    """What an encoder says of pictures. `layer` is what was asked for; embeds is None where nothing is projected."""

    last: Tensor  # (B, L, D)
    layer: Tensor | None  # (B, L, D) of one layer, (B, layers, L, D) of all
    embeds: Tensor  # (B, P): one vector a picture; of an encoder without a class token (B, L, P)
    projected: Tensor | None  # (B, L - 1, P'): patches as a language model reads them


@dataclass(frozen=True)
class VisionConfig:
    """The dimensions of an encoder; the defaults are CLIP-L's. Names are those of the published config files."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = HEADS
    patch_size: int = 14
    image_size: int = 224
    num_channels: int = 3
    projection_dim: int | None = 768  # None where the file has no visual_projection
    projector_dims: tuple[int, int] | None = None  # inside and out of a language model's projector
    class_token: bool = True
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    @classmethod
    def from_state(cls, shapes: Shapes, overrides: Overrides, hidden_act: str) -> VisionConfig:
        """Read the dimensions off the tensors of an encoder.

        overrides: entries of the published config; num_attention_heads (by rule 16, of less than 1024 channels a
        64th), hidden_act and layer_norm_eps are taken from it, what shapes tell must agree with it. hidden_act: the
        kind's activation.

        Raises BadInput when a tensor is missing or the overrides contradict the shapes.
        """
        width, channels, patch, _ = shape(shapes, "vision_model.embeddings.patch_embedding.weight", 4)
        class_token = "vision_model.embeddings.class_embedding" in shapes
        positions = shape(shapes, "vision_model.embeddings.position_embedding.weight", 2)[0]
        side = isqrt(positions - class_token)
        if side * side != positions - class_token:
            raise BadInput(f"The vision encoder has {positions} positions.", why="Its pictures are not square.")
        projection = "visual_projection.weight"
        projector = [f"multi_modal_projector.linear_{number}.weight" for number in (1, 2)]
        config = cls(
            hidden_size=width,
            intermediate_size=shape(shapes, "vision_model.encoder.layers.0.mlp.fc1.weight", 2)[0],
            num_hidden_layers=count(shapes, "vision_model.encoder.layers.{}."),
            num_attention_heads=int(
                overrides.get("num_attention_heads") or (HEADS if width >= 1024 else max(1, width // 64))
            ),
            patch_size=patch,
            image_size=_image_size(side, patch, overrides),
            num_channels=channels,
            projection_dim=shape(shapes, projection, 2)[0] if projection in shapes else None,
            projector_dims=(
                (shape(shapes, projector[0], 2)[0], shape(shapes, projector[1], 2)[0])
                if projector[0] in shapes
                else None
            ),
            class_token=class_token,
            hidden_act=str(overrides.get("hidden_act") or hidden_act),
            layer_norm_eps=float(overrides.get("layer_norm_eps") or 1e-5),
        )
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "patch_size", "image_size"):
            agree(overrides, name, getattr(config, name))
        if config.projection_dim is not None:
            agree(overrides, "projection_dim", config.projection_dim)
        if config.hidden_act not in ACTIVATIONS:
            raise BadInput(f"Unknown hidden_act {config.hidden_act!r}.", do=f"Known: {', '.join(ACTIVATIONS)}.")
        if width % config.num_attention_heads:
            raise BadInput(
                f"{width} channels cannot be split into {config.num_attention_heads} attention heads.",
                do="Give a num_attention_heads in the file's `config` that divides the width.",
            )
        return config


def _image_size(side: int, patch: int, overrides: Overrides) -> int:
    """Pixels of a side, given patches of one; what fills no patch is not seen, but pictures are scaled to it.

    By rule as many as the patches have, but for SigLIP's 384, which is a multiple of 128 and not of 14.
    """
    least = side * patch
    said = overrides.get("image_size")
    if said is not None and least <= said < least + patch:
        return int(said)
    rounded = -(-least // COARSE) * COARSE
    return rounded if rounded < least + patch else least


class Embeddings(nn.Module):
    """Patches as tokens, after the class token where there is one, with their positions added."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.zeros(width)) if config.class_token else None
        self.patch_embedding = Conv2d(config.num_channels, width, patch, stride=patch, bias=not config.class_token)
        tokens = (config.image_size // patch) ** 2 + config.class_token
        self.position_embedding = Embedding(tokens, width)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, size, size), normalised → (B, L, D)."""
        x = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        if self.class_embedding is not None:
            first = self.class_embedding.to(x.dtype).expand(len(x), 1, -1)
            x = torch.cat((first, x), dim=1)
        known = self.position_embedding.num_embeddings
        if x.shape[1] != known:
            raise BadInput(
                f"Pictures of {pixels.shape[-1]}×{pixels.shape[-2]} pixels make {x.shape[1]} tokens.",
                why=f"This vision encoder knows {known} positions.",
            )
        return x + self.position_embedding(torch.arange(known, device=x.device), x.dtype)


class SelfAttention(nn.Module):
    """Every token sees every other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (B, L, D) → the same shape. mask: broadcasts to (B, heads, L, L), true where seen."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.out_proj(attention(q, k, v, self.heads, mask))


class MLP(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, width: int, inner: int, hidden_act: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[hidden_act]
        self.fc1 = Linear(width, inner)
        self.fc2 = Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, D) → the same shape."""
        return self.fc2(self.activation(self.fc1(x)))


class Layer(nn.Module):
    """Self-attention and feed-forward, each normalised before and added after."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm1 = LayerNorm(width, eps=eps)
        self.self_attn = SelfAttention(width, config.num_attention_heads)
        self.layer_norm2 = LayerNorm(width, eps=eps)
        self.mlp = MLP(width, config.intermediate_size, config.hidden_act)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (B, L, D) → the same shape."""
        x = add_to(self.self_attn(self.layer_norm1(x), mask), x)
        return add_to(self.mlp(self.layer_norm2(x)), x)


class Encoder(nn.Module):
    """The layers, one after another."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))


class VisionModel(nn.Module):
    """Embeddings and layers, with a norm before them where there is a class token and one behind."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.class_token = config.class_token
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = LayerNorm(width, eps=eps) if config.class_token else nn.Identity()
        self.encoder = Encoder(config)
        self.post_layernorm = LayerNorm(width, eps=eps)

    def forward(
        self, pixel_values: Tensor, attention_mask: Tensor | None = None, intermediate_output: int | str | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Tokens after the last layer, of the layer asked for, and what is to be projected.

        intermediate_output: which layer's output, -1 the last; "all" for those of all, (B, layers, L, D).
        """
        x = self.pre_layrnorm(self.embeddings(pixel_values))
        layers = self.encoder.layers
        wanted = intermediate_output
        if isinstance(wanted, int) and not -len(layers) <= wanted < len(layers):
            raise BadInput(f"There is no layer {wanted}.", why=f"The vision encoder has {len(layers)}.")
        number = wanted % len(layers) if isinstance(wanted, int) else None
        kept: list[Tensor] = []
        for index, layer in enumerate(layers):
            x = layer(x, attention_mask)
            if wanted == "all" or index == number:
                kept.append(x)
        found = torch.stack(kept, dim=1) if wanted == "all" else kept[0] if kept else None
        if self.class_token:
            return x, found, self.post_layernorm(x[:, 0])
        x = self.post_layernorm(x)
        return x, found, x


class Projector(nn.Module):
    """Patches as a language model reads them. Liu et al. 2023, LLaVA-1.5."""

    def __init__(self, width: int, inner: int, out: int) -> None:
        super().__init__()
        self.linear_1 = Linear(width, inner)
        self.linear_2 = Linear(inner, out)

    def forward(self, patches: Tensor) -> Tensor:
        """patches: (B, L, D), without the class token → (B, L, out)."""
        return self.linear_2(F.gelu(self.linear_1(patches)))


class VisionTransformer(nn.Module):
    """Pictures to tokens, and to one vector each where there is a class token."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionModel(config)
        width = config.hidden_size
        self.visual_projection = (
            nn.Identity() if config.projection_dim is None else Linear(width, config.projection_dim, bias=False)
        )
        self.multi_modal_projector = None if config.projector_dims is None else Projector(width, *config.projector_dims)

    def forward(
        self, pixel_values: Tensor, attention_mask: Tensor | None = None, intermediate_output: int | str | None = None
    ) -> Seen:
        """pixel_values: (B, 3, size, size), normalised. intermediate_output: which layer's output, or "all"."""
        wanted = -2 if intermediate_output is None and self.multi_modal_projector is not None else intermediate_output
        last, layer, pooled = self.vision_model(pixel_values, attention_mask, wanted)
        projected = None
        if self.multi_modal_projector is not None and layer is not None:
            read = layer[:, -2] if wanted == "all" else layer
            projected = self.multi_modal_projector(read[:, int(self.config.class_token) :])
        return Seen(last, layer, self.visual_projection(pooled), projected)
