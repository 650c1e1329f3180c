"""The UNet of Stable Diffusion 1, 2 and XL. Rombach et al. 2022; Podell et al. 2023.

Residual blocks at halving resolutions, each told the time and perhaps followed by transformers that look at the
text; then back up, each block also getting what the way down had at its size. Attribute names are the keys of the
latent-diffusion checkpoints (`input_blocks.1.0.in_layers.0.weight` …, without a prefix).

Shape letters: B batch, C channels, H and W latent height and width, L positions, D context width.
Parameters and input may be in the channels-last layout: the pass keeps the layout that it is given. Which is faster
depends on the machine (AVX-512 without AMX: the plain one, by a tenth to a fifth), so the choice is the loader's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput
from limner.models.layers import attention
from limner.models.layers.activate import add_to
from limner.models.layers.hooks import Hooks
from limner.models.layers.lifetimes import split_linear, untouched
from limner.models.layers.shapes import Overrides, Shapes, agree, count, groups, shape
from limner.sampling.wrappers import run_network
from limner.weights.ops import Conv2d, Embedding, GroupNorm, LayerNorm, Linear
from limner.weights.quant.together import projected

Control = Mapping[str, list[Tensor | None]]


@dataclass(frozen=True)
class UNetConfig:
    """The dimensions of a UNet; the defaults are Stable Diffusion 1's. Names are those of the reference's arguments."""

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)  # channels of each level, in units of model_channels
    num_res_blocks: tuple[int, ...] = (2, 2, 2, 2)  # a level on the way down; on the way up one more
    transformer_depth: tuple[int, ...] = (1, 1, 1, 1, 1, 1, 0, 0)  # of each residual block on the way down
    transformer_depth_middle: int = 1  # -1: one residual block and no transformer; -2: no middle
    transformer_depth_output: tuple[int, ...] = (1,) * 9 + (0,) * 3  # of those on the way up, last first
    use_linear_in_transformer: bool = False  # project by a linear layer instead of a 1×1 convolution
    context_dim: int | None = 768
    disable_self_attentions: tuple[bool, ...] = ()  # levels whose transformers look at the text twice; none if empty
    adm_in_channels: int | None = None  # width of the vector y
    num_classes: int | None = None  # or how many numbers y may be, each with a vector of its own
    num_heads: int = 8  # of every attention; or, if -1,
    num_head_channels: int = -1  # how wide a head is
    norm_groups: int = 32
    attn_precision: torch.dtype | None = None  # of attention scores, where it must be more than that of the pass

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.model_channels * mult for mult in self.channel_mult)

    @property
    def downscale(self) -> int:
        """How many latent pixels of one side a pixel of the smallest level stands for."""
        return int(2 ** (len(self.channel_mult) - 1))

    def looks_at_itself(self, level: int) -> bool:
        """Whether the pixels of a level attend over each other."""
        return not (self.disable_self_attentions and self.disable_self_attentions[level])

    def heads(self, channels: int) -> int:
        """How many heads an attention over `channels` has."""
        heads = self.num_heads if self.num_head_channels == -1 else channels // self.num_head_channels
        if heads < 1 or channels % heads or (self.num_head_channels != -1 and channels % self.num_head_channels):
            raise BadInput(
                f"{channels} channels cannot be split into attention heads.",
                why=f"num_heads is {self.num_heads}, num_head_channels is {self.num_head_channels}.",
                do="Give one of them in the file's `config`, -1 for the other; it must divide the channels.",
            )
        return heads

    @classmethod
    def from_state(cls, shapes: Shapes, overrides: Overrides) -> UNetConfig:
        """Read the dimensions off the tensors of a bare UNet (keys without a prefix).

        overrides: constructor arguments of the reference class. `num_heads` or `num_head_channels` and `norm_groups`
        are taken from it; by rule a UNet with convolutional projections has 8 heads (Stable Diffusion 1) and one with
        linear ones has heads 64 wide (2, XL). What shapes tell must agree with it.

        Raises BadInput when a tensor is missing or the overrides contradict the shapes.
        """
        model_channels, in_channels = shape(shapes, "input_blocks.0.0.weight", 4)[:2]
        down = list(_levels(shapes))
        widths = [width for width, _ in down]
        if any(width % model_channels for width in widths):
            raise BadInput(f"The UNet's levels are {widths} channels wide.", why=f"Not multiples of {model_channels}.")
        depths = [depth for _, blocks in down for depth in blocks]
        up = [_depth(shapes, f"output_blocks.{n}.1") for n in range(count(shapes, "output_blocks.{}.0.in_layers"))]
        _whole(shapes, [len(blocks) for _, blocks in down])
        middle = _depth(shapes, "middle_block.1") or (-1 if "middle_block.0.in_layers.0.weight" in shapes else -2)
        inner = _first(shapes, ".attn2.to_k.weight")
        linear = len(_first(shapes, ".proj_in.weight") or ()) == 2
        heads, head_channels = _heads(overrides, 64 if linear else -1)
        config = cls(
            in_channels=in_channels,
            out_channels=shape(shapes, "out.2.weight", 4)[0],
            model_channels=model_channels,
            channel_mult=tuple(width // model_channels for width in widths),
            num_res_blocks=tuple(len(blocks) for _, blocks in down),
            transformer_depth=tuple(depths),
            transformer_depth_middle=middle,
            transformer_depth_output=tuple(reversed(up)),
            use_linear_in_transformer=linear,
            context_dim=inner[1] if inner else None,
            disable_self_attentions=_only_text(shapes),
            adm_in_channels=shape(shapes, "label_emb.0.0.weight", 2)[1] if "label_emb.0.0.weight" in shapes else None,
            num_classes=shape(shapes, "label_emb.weight", 2)[0] if "label_emb.weight" in shapes else None,
            num_heads=heads,
            num_head_channels=head_channels,
            norm_groups=groups(overrides, [model_channels, *widths]),
        )
        for name in (
            "in_channels", "out_channels", "model_channels", "channel_mult", "num_res_blocks", "transformer_depth",
            "transformer_depth_middle", "transformer_depth_output", "use_linear_in_transformer", "context_dim",
            "adm_in_channels",
        ):  # fmt: skip
            agree(overrides, name, getattr(config, name))
        for width in widths:
            config.heads(width)
        return config


def _levels(shapes: Shapes) -> Iterator[tuple[int, list[int]]]:
    """For each level on the way down: its channels, and the transformer depth of each of its residual blocks."""
    depths: list[int] = []
    width = 0
    for number in range(1, count(shapes, "input_blocks.{}.0.")):
        if f"input_blocks.{number}.0.op.weight" in shapes:
            yield width, depths
            depths = []
        else:
            width = shape(shapes, f"input_blocks.{number}.0.out_layers.3.weight", 4)[0]
            depths.append(_depth(shapes, f"input_blocks.{number}.1"))
    yield width, depths


def _whole(shapes: Shapes, blocks: list[int]) -> None:
    """Refuse a UNet whose way up ends early. blocks: of each level on the way down."""
    expected = sum(blocks) + len(blocks)
    missing = [n for n in range(expected) if f"output_blocks.{n}.0.in_layers.2.weight" not in shapes]
    if 0 < len(missing) < expected:  # control networks have no way up
        raise BadInput(
            f"The tensor output_blocks.{missing[0]}.0.in_layers.2.weight is missing.",
            why=f"The way down has {sum(blocks)} blocks, so the way up has {expected}; {len(missing)} are not there.",
            do="The file is incomplete; get a complete one.",
        )


def _only_text(shapes: Shapes) -> tuple[bool, ...]:
    """For each level whether both attentions of its transformers look at the text; empty where none does.

    It is seen where the text is of another width than the pixels.
    """
    found = [False]
    for number in range(1, count(shapes, "input_blocks.{}.0.")):
        if f"input_blocks.{number}.0.op.weight" in shapes:
            found.append(False)
        first = f"input_blocks.{number}.1.transformer_blocks.0.attn1"
        if f"{first}.to_k.weight" in shapes:
            found[-1] |= shape(shapes, f"{first}.to_k.weight")[1] != shape(shapes, f"{first}.to_q.weight")[1]
    return tuple(found) if any(found) else ()


def _depth(shapes: Shapes, transformer: str) -> int:
    return count(shapes, f"{transformer}.transformer_blocks.{{}}.")


def _first(shapes: Shapes, ending: str) -> tuple[int, ...] | None:
    return next((tuple(found) for key, found in shapes.items() if key.endswith(ending)), None)


def _heads(overrides: Overrides, head_channels: int) -> tuple[int, int]:
    """(num_heads, num_head_channels), exactly one of which is not -1; `head_channels` where nothing is said."""
    said_heads, said_channels = (overrides.get(name) or -1 for name in ("num_heads", "num_head_channels"))
    if said_channels != -1:
        return -1, int(said_channels)
    if said_heads != -1:
        return int(said_heads), -1
    return (8, -1) if head_channels == -1 else (-1, head_channels)


def timestep_embedding(timesteps: Tensor, width: int, max_period: float = 10000.0) -> Tensor:
    """Cosines, then sines, of the time at `width` / 2 frequencies falling from 1 to almost 1 / max_period.

    timesteps: (B,), may be fractional → (B, width) in float32. Source: Vaswani et al. 2017, in DDPM's order.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps.float()[:, None] * torch.exp(-math.log(max_period) * steps / half)
    embedding = torch.cat((angles.cos(), angles.sin()), dim=1)
    return F.pad(embedding, (0, width % 2))


class GEGLU(nn.Module):
    """a · gelu(b), with a and b projected from x. Shazeer 2020."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, width) → (B, L, inner)."""
        if torch.is_grad_enabled():
            value, gate = self.proj(x).chunk(2, dim=-1)
            return value * F.gelu(gate)
        value, gate = split_linear(self.proj, x, 2)
        return value.mul_(torch.ops.aten.gelu_(gate))


class FeedForward(nn.Module):
    """GEGLU to four times the width, and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, width) → the same shape."""
        return self.net(x)


class CrossAttention(nn.Module):
    """Attention of x over a context, with its hook points, named after `point` ("attn1" or "attn2").

    `{point}_patch` sees what goes in (x, what keys come from, what values come from) and may change it;
    `patches_replace` of `point` gets the projected (q, k, v) and answers in the attention's place;
    `{point}_output_patch` sees what comes out.
    """

    def __init__(
        self, point: str, width: int, context_width: int, heads: int, attn_precision: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.point = point
        self.heads = heads
        self.attn_precision = attn_precision
        self.to_q = Linear(width, width, bias=False)
        self.to_k = Linear(context_width, width, bias=False)
        self.to_v = Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(Linear(width, width), nn.Identity())

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
        transformer_options: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """x: (B, H·W, C), context: (B, L, D), x itself where None → like x. value: what values come from."""
        hooks = Hooks.of(transformer_options)
        context = x if context is None else context
        x, context, value = hooks.many(f"{self.point}_patch", x, context, context if value is None else value)
        q, k, v = projected((self.to_q, x), (self.to_k, context), (self.to_v, value))
        replacement = hooks.replacement(self.point, hooks.get("block_index", 0))
        if replacement is None:
            out = attention.optimized_attention(
                q, k, v, self.heads, mask=mask, attn_precision=self.attn_precision, transformer_options=hooks
            )
        else:
            out = replacement(q, k, v, hooks)
        del q, k, v
        return hooks.one(f"{self.point}_output_patch", self.to_out(out))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; each normalised before and added after.

    disable_self_attn: the first attention looks at the text as well.
    """

    def __init__(
        self,
        width: int,
        context_width: int,
        heads: int,
        disable_self_attn: bool = False,
        attn_precision: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.disable_self_attn = disable_self_attn
        first_width = context_width if disable_self_attn else width
        self.attn1 = CrossAttention("attn1", width, first_width, heads, attn_precision)
        self.ff = FeedForward(width)
        self.attn2 = CrossAttention("attn2", width, context_width, heads, attn_precision)
        self.norm1 = LayerNorm(width)
        self.norm2 = LayerNorm(width)
        self.norm3 = LayerNorm(width)

    def forward(
        self, x: Tensor, context: Tensor | None = None, transformer_options: Mapping[str, Any] | None = None
    ) -> Tensor:
        """x: (B, H·W, C), context: (B, L, D) or None for x itself → like x."""
        hooks = Hooks.of(transformer_options)
        heads, precision = self.attn1.heads, self.attn1.attn_precision
        hooks.note(n_heads=heads, dim_head=x.shape[-1] // heads, attn_precision=precision)
        first = context if self.disable_self_attn else None
        change = self.attn1(self.norm1(x), first, transformer_options=hooks)
        x = _added(change, x, own=not hooks.at("attn1_output_patch"))
        x = hooks.one("middle_patch", x)
        change = self.attn2(self.norm2(x), context, transformer_options=hooks)
        x = _added(change, x, own=not hooks.at("attn2_output_patch"))
        del change
        hooks.next_transformer()
        return _added(self.ff(self.norm3(x)), x)


def _added(change: Tensor, x: Tensor, own: bool = True) -> Tensor:
    """x + change; written over `change` where nobody else holds it."""
    return add_to(change, x) if own else change + x


class SpatialTransformer(nn.Module):
    """Transformers over the pixels of a feature map, added to it."""

    def __init__(self, channels: int, depth: int, config: UNetConfig, disable_self_attn: bool = False) -> None:
        super().__init__()
        context_width = config.context_dim or channels
        heads = config.heads(channels)
        self.linear = config.use_linear_in_transformer
        self.norm = GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.proj_in = Linear(channels, channels) if self.linear else Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, context_width, heads, disable_self_attn, config.attn_precision)
            for _ in range(depth)
        )
        self.proj_out = Linear(channels, channels) if self.linear else Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Any = None, transformer_options: Mapping[str, Any] | None = None) -> Tensor:
        """x: (B, C, H, W), context: (B, L, D), or a list of one for each transformer → like x."""
        hooks = Hooks.of(transformer_options)
        hooks.note(activations_shape=list(x.shape))
        h = self.norm(x)
        if not self.linear:
            h = self.proj_in(h)
        h = h.flatten(2).transpose(1, 2)  # (B, H·W, C); in the channels-last layout a view that is contiguous
        if self.linear:
            h = self.proj_in(h)
        for index, block in enumerate(self.transformer_blocks):
            hooks.note(block_index=index)
            h = block(h, context[index % len(context)] if isinstance(context, list) else context, hooks)
        if self.linear:
            h = self.proj_out(h)
        h = h.transpose(1, 2).reshape(x.shape)
        if not self.linear:
            h = self.proj_out(h)
        return _added(h, x)


class SiLU(nn.SiLU):
    """x · σ(x), written over x: it stands behind a normalization, whose result nobody else holds."""

    def forward(self, x: Tensor) -> Tensor:
        """Like x."""
        return F.silu(x, inplace=not torch.is_grad_enabled())


class ResBlock(nn.Module):
    """Two convolutions, the time embedding added between them; added to the input, projected where widths differ."""

    def __init__(self, in_channels: int, out_channels: int, emb_channels: int, norm_groups: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            GroupNorm(norm_groups, in_channels), SiLU(), Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), Linear(emb_channels, out_channels))
        self.out_layers = nn.Sequential(
            GroupNorm(norm_groups, out_channels),
            SiLU(),
            nn.Identity(),
            Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if in_channels == out_channels else Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x: (B, in, H, W), emb: (B, E) → (B, out, H, W)."""
        h = self.out_layers(_added(self.in_layers(x), self.emb_layers(emb)[:, :, None, None]))
        return _added(h, self.skip_connection(x))


class Downsample(nn.Module):
    """Half the size, rounded up, by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) → (B, C, ⌈H/2⌉, ⌈W/2⌉)."""
        return self.op(x)


class Upsample(nn.Module):
    """To a larger size by nearest neighbours, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """x: (B, C, H, W) → (B, C, *size); size is not 2·H, 2·W where the way down had rounded."""
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class Block(nn.ModuleList):
    """Layers of one place in the UNet, each given of the time, the text and the size what it takes."""

    def forward(
        self,
        x: Tensor,
        emb: Tensor,
        context: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """x: (B, C, H, W) → (B, C', H', W'). size: what an upsampling layer makes; twice the size where None."""
        return Block.run(self, x, emb, context, transformer_options, size)

    @staticmethod
    def run(
        layers: Iterable[nn.Module],
        x: Tensor,
        emb: Tensor,
        context: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """The same for any layers; those of a class with a forward_timestep_embed_patch go to its handler."""
        hooks = Hooks.of(transformer_options)
        for layer in layers:
            x = through(layer, x, emb, context, hooks, size)
        return x


def through(
    layer: nn.Module, x: Tensor, emb: Tensor, context: Any, hooks: Hooks, size: tuple[int, int] | None = None
) -> Tensor:
    """x through one layer of a block, or through the handler that a pack has for layers of its class."""
    handlers: list[Any] = list(hooks.at("forward_timestep_embed_patch"))
    handler = next((handle for kind, handle in handlers if isinstance(layer, kind)), None)
    if handler is not None:
        shape = None if size is None else (*x.shape[:2], *size)
        found: Tensor = handler(layer, x, emb, context, hooks, shape, None, None, None)
        return found
    if isinstance(layer, ResBlock):
        return layer(x, emb)
    if isinstance(layer, SpatialTransformer):
        return layer(x, context, hooks)
    if isinstance(layer, Upsample):
        return layer(x, size or (2 * x.shape[2], 2 * x.shape[3]))
    return layer(x)


def steps(block: nn.Module) -> Sequence[Callable[..., Tensor]]:
    """What a block does, one by one, each called with (x, emb, context, hooks[, size]).

    As one call it would hold what goes in until its last layer is done. A block that a pack has hooked or replaced is
    one call all the same.
    """
    if isinstance(block, Block) and untouched(block, _BLOCK):
        return [partial(through, layer) for layer in block]
    return [block]


_BLOCK = Block.forward


class UNet(nn.Module):
    """Noise (or velocity) in a latent at a time, given a text."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        first, emb = config.model_channels, 4 * config.model_channels
        self.time_embed = nn.Sequential(Linear(first, emb), nn.SiLU(), Linear(emb, emb))
        self.label_emb: nn.Module | None = None
        if config.adm_in_channels is not None:
            self.label_emb = nn.Sequential(
                nn.Sequential(Linear(config.adm_in_channels, emb), nn.SiLU(), Linear(emb, emb))
            )
        elif config.num_classes is not None:
            self.label_emb = Embedding(config.num_classes, emb)
        self.input_blocks, skips = self._make_input_blocks(config, emb)
        self.middle_block = self._make_middle(config, emb)
        self.output_blocks = self._make_output_blocks(config, emb, skips)
        self.out = nn.Sequential(
            GroupNorm(config.norm_groups, first), SiLU(), Conv2d(first, config.out_channels, 3, padding=1)
        )

    @staticmethod
    def _make_input_blocks(config: UNetConfig, emb: int) -> tuple[nn.ModuleList, list[int]]:
        """The blocks on the way down, and the channels that each leaves."""
        blocks = [Block([Conv2d(config.in_channels, config.model_channels, 3, padding=1)])]
        skips = [config.model_channels]
        depths = iter(config.transformer_depth)
        for level, width in enumerate(config.widths):
            if level:
                blocks.append(Block([Downsample(skips[-1])]))
                skips.append(skips[-1])
            for _ in range(config.num_res_blocks[level]):
                block = Block([ResBlock(skips[-1], width, emb, config.norm_groups)])
                if depth := next(depths):
                    block.append(SpatialTransformer(width, depth, config, not config.looks_at_itself(level)))
                blocks.append(block)
                skips.append(width)
        return nn.ModuleList(blocks), skips

    @staticmethod
    def _make_middle(config: UNetConfig, emb: int) -> Block:
        width, depth = config.widths[-1], config.transformer_depth_middle
        layers: list[nn.Module] = []
        if depth >= -1:
            layers.append(ResBlock(width, width, emb, config.norm_groups))
        if depth >= 0:
            layers += [
                SpatialTransformer(width, depth, config),
                ResBlock(width, width, emb, config.norm_groups),
            ]
        return Block(layers)

    @staticmethod
    def _make_output_blocks(config: UNetConfig, emb: int, skips: list[int]) -> nn.ModuleList:
        """The blocks on the way up: each takes what the one before it left and the skip of its size."""
        blocks = []
        remaining, depths = list(skips), iter(reversed(config.transformer_depth_output))
        channels = remaining[-1]
        for level, width in reversed(list(enumerate(config.widths))):
            last = config.num_res_blocks[level]
            for number in range(last + 1):
                block = Block([ResBlock(channels + remaining.pop(), width, emb, config.norm_groups)])
                if depth := next(depths):
                    block.append(SpatialTransformer(width, depth, config, not config.looks_at_itself(level)))
                if level and number == last:
                    block.append(Upsample(width))
                blocks.append(block)
                channels = width
        return nn.ModuleList(blocks)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: Control | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """What the UNet predicts for x, computed and returned in x's dtype.

        x:         (B, in_channels, H, W), any H and W from 1 up.
        timesteps: (B,), 0 … 999, may be fractional.
        context:   (B, L, D), the encoded text.
        y:         (B, adm_in_channels), for models that take a vector; or (B,) integers below num_classes.
        control:   residuals of a ControlNet: for "input", "middle", "output" a list of tensors to add (None adds
                   nothing), used from the end: the last entry of "output" belongs to the first skip that is used.
        transformer_options: hooks (see `limner.models.layers.hooks`) at the points emb_patch (emb, model_channels),
                   input_block_patch (h), input_block_patch_after_skip (h), middle_patch (x, in each transformer),
                   output_block_patch (h, skip), and those of CrossAttention.
        returns:   (B, out_channels, H, W).

        Raises BadInput when y is missing though the model takes one, or given though it takes none.
        """
        options = dict(transformer_options or {})
        found: Tensor = run_network(self, options, x, timesteps, context, y, control, options, **kwargs)
        return found

    def _forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: Control | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> Tensor:
        if context is not None:
            context = context.to(x.dtype)
        hooks = Hooks(transformer_options)
        hooks.note(original_shape=list(x.shape))
        residuals = {name: list(tensors) for name, tensors in (control or {}).items()}
        emb = self._embed(x, timesteps, y, hooks)
        skips: list[Tensor] = []
        for number, block in enumerate(self.input_blocks):
            hooks.enter("input", number)
            for step in steps(block):
                x = step(x, emb, context, hooks)
            x = apply_control(x, residuals, "input")
            x = hooks.one("input_block_patch", x)
            skips.append(x)
            x = hooks.one("input_block_patch_after_skip", x)
        hooks.enter("middle", 0)
        for step in steps(self.middle_block):
            x = step(x, emb, context, hooks)
        x = apply_control(x, residuals, "middle")
        for number, block in enumerate(self.output_blocks):
            hooks.enter("output", number)
            skip = apply_control(skips.pop(), residuals, "output")
            x, skip = hooks.many("output_block_patch", x, skip)
            x = torch.cat((x, skip), dim=1)
            del skip
            size = (skips[-1].shape[2], skips[-1].shape[3]) if skips else None
            for step in steps(block):
                x = step(x, emb, context, hooks, size)
        return self.out(x)

    def _embed(self, x: Tensor, timesteps: Tensor, y: Tensor | None, hooks: Hooks) -> Tensor:
        """What the blocks are told of the time and of y: (B, E)."""
        emb: Tensor = self.time_embed(timestep_embedding(timesteps, self.config.model_channels).to(x.dtype))
        emb = hooks.one("emb_patch", emb, self.config.model_channels)
        if (y is None) != (self.label_emb is None):
            width, classes = self.config.adm_in_channels, self.config.num_classes
            wanted = f"y of width {width}" if width else f"y from 0 to {classes - 1}" if classes else "none"
            raise BadInput(
                "This UNet takes no vector y." if self.label_emb is None else "This UNet needs a vector y.",
                why="It has no label_emb." if self.label_emb is None else f"It was made for {wanted}.",
            )
        if self.label_emb is None or y is None:
            return emb
        told: Tensor = self.label_emb(y) if self.config.num_classes else self.label_emb(y.to(x.dtype))
        return emb + told.to(x.dtype)


def apply_control(h: Tensor, control: dict[str, list[Tensor | None]] | None, name: str) -> Tensor:
    """h with the next residual of a part added. It is called through this module, so that packs can replace it."""
    remaining = control.get(name) if control is not None else None
    residual = remaining.pop() if remaining else None
    return h if residual is None else h + residual
