"""Style models: what a vision encoder says of a picture, as tokens that stand beside a text's.

Two are known: FLUX.1 Redux, two linear layers over SigLIP's tokens (its model card), and T2I-Adapter's style adapter, a
small transformer with eight tokens of its own over CLIP-L's (Mou et al. 2023). Attribute names are the files' keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput
from limner.memory import MemoryManager
from limner.models.family import Mark, has
from limner.models.layers.residual import ResidualAttention
from limner.models.layers.shapes import Shapes, count, shape
from limner.models.reading import read_header
from limner.models.what import what_it_is
from limner.weights import CheckpointHeader, NetworkSource
from limner.weights.ops import LayerNorm, Linear

HEAD_WIDTH = 128
"""Channels of a head of the style adapter: 1024 in eight heads."""


class ReduxImageEncoder(nn.Module):
    """SigLIP's tokens as a text's: one linear layer up, one down.

    redux_dim: channels of a token of the picture. txt_in_features: of the text; inside there are three times as many.
    """

    def __init__(self, redux_dim: int = 1152, txt_in_features: int = 4096, inner: int | None = None) -> None:
        super().__init__()
        inner = txt_in_features * 3 if inner is None else inner
        self.redux_dim = redux_dim
        self.redux_up = Linear(redux_dim, inner)
        self.redux_down = Linear(inner, txt_in_features)

    @classmethod
    def of(cls, shapes: Shapes) -> Callable[[], nn.Module]:
        """What builds it, from the shapes of its tensors."""
        inner, redux_dim = shape(shapes, "redux_up.weight", 2)
        return partial(cls, redux_dim, shape(shapes, "redux_down.weight", 2)[0], inner)

    @property
    def takes(self) -> int:
        """Channels of a token of the picture."""
        return self.redux_dim

    def forward(self, sigclip_embeds: Tensor) -> Tensor:
        """(B, L, redux_dim) → (B, L, txt_in_features)."""
        return self.redux_down(F.silu(self.redux_up(sigclip_embeds)))


class StyleAdapter(nn.Module):
    """Tokens of its own look at a picture's; what they have become is the style."""

    def __init__(self, width: int, context_dim: int, heads: int, layers: int, tokens: int) -> None:
        super().__init__()
        self.width = width
        self.style_embedding = nn.Parameter(torch.empty(1, tokens, width))
        self.transformer_layes = nn.Sequential(
            *(ResidualAttention(width, heads) for _ in range(layers))
        )  # the files' spelling
        self.ln_pre = LayerNorm(width)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, context_dim))

    @classmethod
    def of(cls, shapes: Shapes) -> Callable[[], nn.Module]:
        """What builds it, from the shapes of its tensors."""
        _, tokens, width = shape(shapes, "style_embedding", 3)
        layers, heads = count(shapes, "transformer_layes.{}."), max(1, width // HEAD_WIDTH)
        return partial(cls, width, shape(shapes, "proj", 2)[1], heads, layers, tokens)

    @property
    def takes(self) -> int:
        """Channels of a token of the picture."""
        return self.width

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, width) → (B, tokens, context_dim)."""
        own = self.style_embedding.to(x.dtype).expand(len(x), -1, -1)
        x = self.transformer_layes(self.ln_pre(torch.cat((x, own), dim=1)))
        return self.ln_post(x[:, -own.shape[1] :]) @ self.proj.to(x.dtype)


@dataclass(frozen=True)
class StyleKind:
    """A kind of style model. of: what builds its network, from shapes."""

    title: str
    marks: tuple[Mark, ...]
    of: Callable[[Shapes], Callable[[], nn.Module]]


KINDS = (
    StyleKind("FLUX.1 Redux", (has("redux_down.weight"), has("redux_up.weight")), ReduxImageEncoder.of),
    StyleKind("T2I-Adapter's style adapter", (has("style_embedding"), has("proj")), StyleAdapter.of),
)


class StyleModel:
    """A style model with its weights."""

    def __init__(self, source: NetworkSource, memory: MemoryManager, file: str) -> None:
        self.source = source
        self.memory = memory
        self.file = file

    @property
    def model(self) -> nn.Module:
        """The network; loaded when it is asked for."""
        with self.memory.loaded(self.source, self.memory.text_precision().storage) as network:
            return network

    def get_cond(self, input: Any) -> Tensor:  # noqa: A002 - the name that packs give
        """The tokens of pictures, (B, tokens, width of the text), float32, on the CPU.

        input: what a vision encoder says of them, with `last_hidden_state`.

        Raises BadInput when it was another encoder than the style model was trained with.
        """
        precision, seen = self.memory.text_precision(), input.last_hidden_state
        with self.memory.loaded(self.source, precision.storage) as network:
            if seen.shape[-1] != network.takes:
                raise BadInput(
                    f"{self.file} takes tokens of {network.takes} channels, the vision encoder gives {seen.shape[-1]}.",
                    why="A style model belongs to the vision encoder that it was trained with.",
                    do="Use sigclip_vision_patch14_384 for FLUX.1 Redux, CLIP ViT-L for a T2I style adapter.",
                )
            tokens: Tensor = network(self.memory.place(seen.to(precision.compute)))
        return tokens.float().cpu()


def load_style_model(path: str | Path, memory: MemoryManager) -> StyleModel:
    """A file that is a style model. Raises BadInput when it is none that is known."""
    return style_model_of(read_header(path, memory), memory)


def style_model_of(header: CheckpointHeader, memory: MemoryManager) -> StyleModel:
    """The style model of a header. Raises BadInput when it is none that is known."""
    kind = next((one for one in KINDS if all(mark.test(header) for mark in one.marks)), None)
    if kind is None:
        raise BadInput(
            f"{header.path.name}: {len(header)} tensors, but no known style model.",
            why=f"Found: {what_it_is(header) or 'nothing that is known'}.",
            do=f"Choose a file of {' or '.join(one.title for one in KINDS)}, such as flux1-redux-dev.",
        )
    source = NetworkSource("style model", kind.of(header.shapes()), header.tensors, header.identity)
    return StyleModel(source, memory, header.path.name)
