"""Model patches: small networks that compute inside a diffusion model, through its hooks (MODEL_PATCH).

A kind is a network, how its files are recognised, and a hook that works with it. Kinds: DiffSynth-Studio's blockwise
controls of Qwen-Image (`BlockwiseControl`), and the projector with which USO shows FLUX.1 a style (`StyleProjector`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput
from limner.memory import MemoryManager, casting
from limner.models.family import Mark, has
from limner.models.layers.patches import patched
from limner.models.layers.shapes import Shapes, count, shape
from limner.models.reading import read_header
from limner.models.source_patcher import SourcePatcher
from limner.sampling.latent_formats import FORMATS
from limner.sampling.resize import common_upscale
from limner.weights import CheckpointHeader, NetworkSource
from limner.weights.ops import LayerNorm, Linear, RMSNorm

CELLS = 4
"""Cells of a patch, in both models."""
DTYPES = (torch.bfloat16, torch.float16, torch.float32)

# -- Qwen-Image: a control block by block -----------------------------------------------------------------------------


class ControlBlock(nn.Module):
    """What one block of the model is given of a hint: linear, GELU, linear over both, each normalized."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.x_rms = RMSNorm(width, eps=1e-6)
        self.y_rms = RMSNorm(width, eps=1e-6)
        self.input_proj = Linear(width, width)
        self.output_proj = Linear(width, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x: (B, N, D), the model's patches; y: (B or 1, N, D), the hint's → (B, N, D)."""
        return self.output_proj(F.gelu(self.input_proj(self.x_rms(x) + self.y_rms(y))))


class BlockwiseControl(nn.Module):
    """A hint's latent for each block of Qwen-Image. Source: DiffSynth-Studio, Qwen-Image-Blockwise-ControlNet."""

    def __init__(self, blocks: int, channels: int, width: int) -> None:
        super().__init__()
        self.channels = channels
        self.img_in = Linear(CELLS * channels, width)
        self.controlnet_blocks = nn.ModuleList(ControlBlock(width) for _ in range(blocks))

    @classmethod
    def of(cls, shapes: Shapes) -> Callable[[], BlockwiseControl]:
        """What builds one with tensors of these shapes."""
        width, inside = shape(shapes, "img_in.weight", 2)
        return partial(cls, count(shapes, "controlnet_blocks.{}."), inside // CELLS, width)


class BlockwiseHook:
    """After each block of two streams: the patches with what the hint says to them added.

    image: (B, H, W, 3) in 0..1; mask: (B, 1, H, W), 1 where something new is to be painted, or None.
    """

    def __init__(self, patch: SourcePatcher, vae: Any, image: Tensor, strength: float, mask: Tensor | None) -> None:
        self.patch, self.vae, self.image, self.strength, self.mask = patch, vae, image, strength, mask
        self._shown: tuple[tuple[int, ...], Tensor] | None = None

    def models(self) -> list[SourcePatcher]:
        """What is loaded together with the model."""
        return [self.patch]

    def __call__(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """{"img": (B, N, D), "x": (B, C, …, h, w), "block_index", …} → the same, its `img` changed."""
        img, x = args["img"], args["x"]
        with self.patch.loaded() as loaded:
            network: Any = loaded
            y = self._hint(network, x).to(img.dtype)
            block = network.controlnet_blocks[args["block_index"]]
            there = y.shape[1]
            change = block(img[:, :there], _to_batch(y, len(img))) * self.strength
        changed = img.clone()
        changed[:, :there] += change
        return {**args, "img": changed}

    def _hint(self, network: Any, x: Tensor) -> Tensor:
        """The hint's patches for a latent of x's size, made once for each size."""
        size = tuple(x.shape[-2:])
        if self._shown is None or self._shown[0] != size:
            latent = casting.cast_to(self._latent(network.channels, size), device=x.device)
            patches, _rows, _columns = patched(latent, 2)
            self._shown = size, network.img_in(patches.to(x.dtype))
        return self._shown[1]

    def _latent(self, channels: int, size: tuple[int, ...]) -> Tensor:
        """The image's latent in model space, and a mask of what is kept where the network takes one: (B, C, h, w)."""
        height, width = (side * self.vae.spacial_compression_encode() for side in size)
        picture = common_upscale(self.image.movedim(-1, 1), width, height, "area", "center")
        kept = None
        if channels > FORMATS["Wan21"].channels:
            mask = self.mask if self.mask is not None else torch.zeros_like(self.image[:1, None, :, :, 0])
            kept = 1 - common_upscale(mask.to(picture.dtype), width, height, "area", "center")
            picture = picture * kept.round()
        latents = [self.vae.encode(one[None]) for one in picture.movedim(1, -1)[..., :3]]
        latent = FORMATS["Wan21"].process_in(torch.cat(latents))
        latent = latent.squeeze(2) if latent.ndim == 5 else latent
        if kept is None:
            return latent
        small = common_upscale(kept, size[1], size[0], "nearest-exact").expand(len(latent), -1, -1, -1)
        return torch.cat((latent, small.to(latent.dtype)), dim=1)


def _to_batch(y: Tensor, rows: int) -> Tensor:
    """One for each row: repeated in order, or cut."""
    return y if len(y) in (1, rows) else y.repeat(-(-rows // len(y)), 1, 1)[:rows]


# -- FLUX.1: a style as tokens ----------------------------------------------------------------------------------------

LAYERS = {"high": -2, "mid": -11, "low": -20}
"""Which layers of the vision encoder are looked at, counted from the last."""


class StyleProjector(nn.Module):
    """Three layers of a SigLIP encoder as tokens of a text. Wu et al. 2025, "USO", section 3.2."""

    def __init__(self, tokens: int, style_tokens: int, width_in: int, width: int, normed: bool = True) -> None:
        super().__init__()
        self.tokens = tokens
        for name in LAYERS:
            setattr(self, f"{name}_embedding_linear", nn.Sequential(Linear(tokens, style_tokens), nn.SiLU()))
            setattr(self, f"{name}_layer_norm", LayerNorm(width_in) if normed else nn.Identity())
            setattr(self, f"{name}_projection", Linear(width_in, width))

    @classmethod
    def of(cls, shapes: Shapes) -> Callable[[], StyleProjector]:
        """What builds one with tensors of these shapes."""
        style_tokens, tokens = shape(shapes, "high_embedding_linear.0.weight", 2)
        width, width_in = shape(shapes, "high_projection.weight", 2)
        return partial(cls, tokens, style_tokens, width_in, width, "high_layer_norm.weight" in shapes)

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """layers: (B, tokens, width_in) of each, in the order of `LAYERS` → (B, 3 · style tokens, D)."""
        found = []
        for name, layer in zip(LAYERS, layers, strict=True):
            fewer = getattr(self, f"{name}_embedding_linear")(layer.transpose(1, 2)).transpose(1, 2)
            found.append(getattr(self, f"{name}_projection")(getattr(self, f"{name}_layer_norm")(fewer)))
        return torch.cat(found, dim=1)


class StyleHook:
    """After the input layers: the style's tokens before the text's, at the first place."""

    def __init__(self, patch: SourcePatcher, layers: Sequence[Tensor]) -> None:
        self.patch, self.layers = patch, list(layers)
        self._tokens: Tensor | None = None

    def models(self) -> list[SourcePatcher]:
        """What is loaded together with the model."""
        return [self.patch]

    def __call__(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """{"txt": (B, L, D), "txt_ids": (B, L, axes), …} → the same, both longer."""
        txt, ids = args["txt"], args["txt_ids"]
        if self._tokens is None:
            with self.patch.loaded() as network:
                layers = [casting.cast_to(layer, txt.dtype, txt.device) for layer in self.layers]
                self._tokens = network(layers)
        tokens = _to_batch(self._tokens.to(txt.dtype), len(txt)).expand(len(txt), -1, -1)
        places = ids.new_zeros(len(ids), tokens.shape[1], ids.shape[-1])
        return {**args, "txt": torch.cat((tokens, txt), dim=1), "txt_ids": torch.cat((places, ids), dim=1)}


def style_layers(output: Any, tokens: int) -> list[Tensor]:
    """The layers of a vision encoder's output that a style is made of.

    Raises BadInput when the output has not all layers, or another number of tokens.
    """
    every = getattr(output, "all_hidden_states", None)
    if every is None:
        raise BadInput(
            "The vision encoder's output has only its last layers.",
            why="The style is read off earlier layers too, which only SigLIP encoders give.",
            do="Encode the style with sigclip_vision_patch14_384.",
        )
    several = list(every) if isinstance(every, list | tuple) else list(every.unbind(1))
    if len(several) < -min(LAYERS.values()) or several[-1].shape[1] != tokens:
        raise BadInput(
            f"The vision encoder gives {len(several)} layers of {several[-1].shape[1]} tokens.",
            why=f"The style's projector was made for {tokens} tokens and at least {-min(LAYERS.values())} layers.",
            do="Encode the style with sigclip_vision_patch14_384.",
        )
    return [several[place] for place in LAYERS.values()]


# -- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PatchKind:
    """A kind of model patch. prefixes: what its names may begin with. of: what builds its network, from shapes."""

    title: str
    marks: tuple[Mark, ...]
    of: Callable[[Shapes], Callable[[], nn.Module]]
    network: type[nn.Module]
    prefixes: tuple[str, ...] = ("",)


KINDS = (
    PatchKind(
        "blockwise control of Qwen-Image",
        (has("controlnet_blocks.0.y_rms.weight"), has("img_in.weight")),
        BlockwiseControl.of,
        BlockwiseControl,
    ),
    PatchKind(
        "style projector of USO",
        (has("high_embedding_linear.0.weight"), has("low_projection.weight")),
        StyleProjector.of,
        StyleProjector,
        ("", "feature_embedder."),
    ),
)


class ModelPatch(SourcePatcher):
    """A model patch: its weights, and what kind it is."""

    kind: PatchKind

    def clone(self) -> ModelPatch:
        """One with changes of its own; the weights are shared."""
        other = ModelPatch(self.source, self.memory, self.load_device, self._precision)
        other.kind = self.kind
        self.copy_changes_to(other)
        return other


def load_model_patch(path: str | Path, memory: MemoryManager) -> ModelPatch:
    """The model patch of a file. Raises BadInput when it is none that is known."""
    return patch_of(read_header(path, memory), memory)


def patch_of(header: CheckpointHeader, memory: MemoryManager) -> ModelPatch:
    """The model patch of a header."""
    for kind in KINDS:
        for prefix in kind.prefixes:
            inside = header.select(prefix)
            if all(mark.test(inside) for mark in kind.marks):
                source = NetworkSource(kind.title, kind.of(inside.shapes()), inside.tensors, header.identity)
                made = ModelPatch(source, memory, memory.device, lambda: memory.unet_precision(DTYPES))
                made.kind = kind
                return made
    raise BadInput(
        f"{header.path.name}: {len(header)} tensors, but no known model patch.",
        why=f"Known are {' and '.join(kind.title for kind in KINDS)}.",
        do="A ControlNet is loaded with Load ControlNet Model, a LoRA with Load LoRA.",
    )


def expect(patch: Any, network: type[nn.Module], node: str) -> None:
    """Refuse a model patch of another kind than a node works with."""
    kind = getattr(patch, "kind", None)
    if kind is None or kind.network is not network:
        wanted = next(kind.title for kind in KINDS if kind.network is network)
        found = "something else" if kind is None else f"a {kind.title}"
        raise BadInput(f"{node} works with a {wanted}; the model patch is {found}.", do="Load another file.")
