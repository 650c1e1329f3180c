"""The KL-regularised convolutional autoencoder of latent diffusion. Rombach et al. 2022, appendix G.

Pictures are (batch, 3, height, width) in -1..1; a latent is 2^(levels - 1) times smaller each way, here without any
scale factor. Attribute names are the keys of the CompVis checkpoints (`encoder.down.0.block.0.norm1.weight` …).
Parameters and activations may be in the channels-last layout: nothing here depends on it or changes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput
from limner.models.convert import vae_from_diffusers
from limner.models.family import Mark, has, lacks
from limner.models.layers.activate import add_to, normed_silu
from limner.models.layers.shapes import Overrides, Shapes, agree, count, groups, shape
from limner.models.vae.kind import WORKSPACE, Autoencoder, AutoencoderKind, Peak, decoded, encoded
from limner.weights.header import CheckpointHeader
from limner.weights.ops import Conv2d, GroupNorm

EPS = 1e-6


@dataclass(frozen=True)
class KLConfig:
    """The dimensions of an autoencoder; the defaults are Stable Diffusion's."""

    in_channels: int = 3
    out_ch: int = 3
    ch: int = 128  # channels of the first level
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)  # channels of each level, in units of ch
    num_res_blocks: int = 2  # a level of the encoder; a level of the decoder has one more
    attn_levels: tuple[int, ...] = ()  # levels with attention after each block, beside the middle
    z_channels: int = 4  # of the network
    double_z: bool = True  # the encoder gives mean and log variance
    embed_dim: int = 4  # of the latent
    quant: bool = True  # has quant_conv and post_quant_conv between network and latent
    norm_groups: int = 32

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.ch * mult for mult in self.ch_mult)

    @property
    def downscale(self) -> int:
        """How many pixels of one side a latent's pixel stands for."""
        return int(2 ** (len(self.ch_mult) - 1))

    @classmethod
    def from_state(cls, shapes: Shapes, overrides: Overrides) -> KLConfig:
        """Read the dimensions off the tensors of a bare autoencoder.

        overrides: constructor arguments of the reference class; all that shapes tell must agree with them.

        Raises BadInput when a tensor is missing or the overrides contradict the shapes.
        """
        ch, in_channels = shape(shapes, "encoder.conv_in.weight", 4)[:2]
        z_channels = shape(shapes, "decoder.conv_in.weight", 4)[1]
        levels = count(shapes, "encoder.down.{}.block.0.conv1.weight")
        widths = [shape(shapes, f"encoder.down.{level}.block.0.conv1.weight", 4)[0] for level in range(levels)]
        double_z = shape(shapes, "encoder.conv_out.weight", 4)[0] == 2 * z_channels
        quant = "post_quant_conv.weight" in shapes
        if quant != ("quant_conv.weight" in shapes):
            raise BadInput("The autoencoder has only one of quant_conv and post_quant_conv.")
        config = cls(
            in_channels=in_channels,
            out_ch=shape(shapes, "decoder.conv_out.weight", 4)[0],
            ch=ch,
            ch_mult=tuple(width // ch for width in widths),
            num_res_blocks=count(shapes, "encoder.down.0.block.{}.conv1.weight"),
            attn_levels=tuple(n for n in range(levels) if f"encoder.down.{n}.attn.0.q.weight" in shapes),
            z_channels=z_channels,
            double_z=double_z,
            embed_dim=shape(shapes, "post_quant_conv.weight", 4)[1] if quant else z_channels,
            quant=quant,
            norm_groups=groups(overrides, widths),
        )
        if config.widths != tuple(widths):
            raise BadInput(f"The autoencoder's levels are {widths} channels wide.", why=f"Not multiples of {ch}.")
        for name in ("in_channels", "out_ch", "ch", "ch_mult", "num_res_blocks", "z_channels", "double_z", "embed_dim"):
            agree(overrides, name, getattr(config, name))
        return config


class ResnetBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1×1 convolution where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, norm_groups: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.use_conv_shortcut = in_channels, out_channels, False
        self.norm1 = GroupNorm(norm_groups, in_channels, eps=EPS)
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(norm_groups, out_channels, eps=EPS)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, in, height, width) → (batch, out, height, width)."""
        h = self.conv1(normed_silu(self.norm1, x))
        h = normed_silu(self.norm2, h)  # a line of its own: what was normed is gone before the convolution
        h = self.conv2(h)
        return add_to(h, x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttnBlock(nn.Module):
    """Self-attention of one head over all pixels, added to its input."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.in_channels = channels
        self.norm = GroupNorm(norm_groups, channels, eps=EPS)
        self.q = Conv2d(channels, channels, 1)
        self.k = Conv2d(channels, channels, 1)
        self.v = Conv2d(channels, channels, 1)
        self.proj_out = Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, height, width) → the same shape."""
        h = self.norm(x)
        q, k, v = self.q(h), self.k(h), self.v(h)
        del h
        h = self.optimized_attention(q, k, v)
        del q, k, v
        return add_to(self.proj_out(h), x)

    @staticmethod
    def optimized_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v: (batch, channels, height, width) → the same shape."""
        # (batch, 1 head, pixels, channels): a view when they are channels-last. Of channels that are not side by side
        # torch would make all scores, of which there are 268 million in a picture of 1024².
        shape = q.shape
        q, k, v = (part.flatten(2).transpose(1, 2).contiguous()[:, None] for part in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(shape)


class Downsample(nn.Module):
    """Half the size by a strided convolution, padded on the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, height, width) → (batch, channels, height / 2, width / 2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size by nearest neighbours, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, height, width) → (batch, channels, 2·height, 2·width)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution, with attention after each where the level has it, then a change of size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        blocks: int,
        attention: bool,
        norm_groups: int,
        resize: type[Downsample] | type[Upsample] | None,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.block = nn.ModuleList(ResnetBlock(widths[n], out_channels, norm_groups) for n in range(blocks))
        self.attn = nn.ModuleList(AttnBlock(out_channels, norm_groups) for _ in range(blocks if attention else 0))
        self.downsample = Downsample(out_channels) if resize is Downsample else None
        self.upsample = Upsample(out_channels) if resize is Upsample else None

    def steps(self) -> Iterator[nn.Module]:
        """What it does, in order. Run one by one, no step's input outlives it."""
        for number, block in enumerate(self.block):
            yield block
            if len(self.attn):
                yield self.attn[number]
        if (resize := self.downsample or self.upsample) is not None:
            yield resize

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, in, height, width) → (batch, out, height', width')."""
        for step in self.steps():
            x = step(x)
        return x


class Middle(nn.Module):
    """Block, attention, block at the smallest resolution."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, norm_groups)
        self.attn_1 = AttnBlock(channels, norm_groups)
        self.block_2 = ResnetBlock(channels, channels, norm_groups)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, height, width) → the same shape."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Ladder(nn.Module):
    """What encoder and decoder tell of themselves; packs that run them block by block read it."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.ch, self.in_channels, self.out_ch = config.ch, config.in_channels, config.out_ch
        self.num_resolutions, self.num_res_blocks = len(config.ch_mult), config.num_res_blocks
        self.temb_ch = 0  # no block sees a time
        self.give_pre_end = self.tanh_out = False  # the last norm and convolution are applied, and nothing after


class Encoder(Ladder):
    """Pictures to the moments of a latent, level by level smaller."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__(config)
        widths, last = config.widths, len(config.ch_mult) - 1
        self.conv_in = Conv2d(config.in_channels, config.ch, 3, padding=1)
        self.down = nn.ModuleList(
            Level(
                widths[max(n - 1, 0)] if n else config.ch,
                widths[n],
                blocks=config.num_res_blocks,
                attention=n in config.attn_levels,
                norm_groups=config.norm_groups,
                resize=Downsample if n != last else None,
            )
            for n in range(last + 1)
        )
        self.mid = Middle(widths[last], config.norm_groups)
        self.norm_out = GroupNorm(config.norm_groups, widths[last], eps=EPS)
        self.conv_out = Conv2d(widths[last], (2 if config.double_z else 1) * config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, 3, height, width) → (batch, moments, height / downscale, width / downscale)."""
        x = self.conv_in(x)
        for level in self.down:
            for step in level.steps():  # type: ignore[operator]
                x = step(x)
        x = self.mid(x)
        return self.conv_out(normed_silu(self.norm_out, x))


class Decoder(Ladder):
    """Latents to pictures; its levels are numbered like the encoder's, so that it runs from the last to the first."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__(config)
        widths, last = config.widths, len(config.ch_mult) - 1
        self.conv_in = Conv2d(config.z_channels, widths[last], 3, padding=1)
        self.mid = Middle(widths[last], config.norm_groups)
        self.up = nn.ModuleList(
            Level(
                widths[min(n + 1, last)],
                widths[n],
                blocks=config.num_res_blocks + 1,
                attention=n in config.attn_levels,
                norm_groups=config.norm_groups,
                resize=Upsample if n else None,
            )
            for n in range(last + 1)
        )
        self.norm_out = GroupNorm(config.norm_groups, widths[0], eps=EPS)
        self.conv_out = Conv2d(widths[0], config.out_ch, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """z: (batch, z_channels, height, width) → (batch, 3, height·downscale, width·downscale)."""
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            for step in level.steps():  # type: ignore[operator]
                x = step(x)
        x = normed_silu(self.norm_out, x)
        return self.conv_out(x)


class AutoencoderKL(nn.Module):
    """Encoder and decoder, with the two 1×1 convolutions between network and latent where the file has them."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        moments = 2 if config.double_z else 1
        self.quant_conv = (
            Conv2d(moments * config.z_channels, moments * config.embed_dim, 1) if config.quant else nn.Identity()
        )
        self.post_quant_conv = Conv2d(config.embed_dim, config.z_channels, 1) if config.quant else nn.Identity()

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the posterior of pictures in -1..1; a log variance is kept within -30..20.

        An autoencoder without a variance (`double_z` false) answers with the smallest one.
        """
        moments = self.quant_conv(self.encoder(pixels))
        if not self.config.double_z:
            return moments, torch.full_like(moments, -30.0)
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def encode(self, pixels: Tensor) -> Tensor:
        """pixels: (batch, 3, height, width) in -1..1 → the posterior's mean, (batch, channels, height', width')."""
        return self.moments(pixels)[0]

    def decode(self, latent: Tensor) -> Tensor:
        """latent: (batch, channels, height, width) → pictures about -1..1, not clamped."""
        return self.decoder(self.post_quant_conv(latent))

    def forward(self, pixels: Tensor) -> Tensor:
        """There and back: the decoded mean."""
        return self.decode(self.encode(pixels))


def decode_peak(config: KLConfig) -> float:
    """Elements for each pixel at the worst moment of decoding.

    Of a block: input, normed input, output. Of a change of size: input, enlarged input, output.
    """
    widths, last = config.widths, len(config.ch_mult) - 1
    worst = 0.0
    for level, width in enumerate(widths):
        before, pixels = widths[min(level + 1, last)], 4.0**-level
        worst = max(worst, (2 * before + width) * pixels, 3 * width * pixels)
        if level:
            worst = max(worst, (width + 8 * width) * pixels)
    return worst


def encode_peak(config: KLConfig) -> float:
    """The same of encoding, where a smaller level begins after a padded copy."""
    widths, worst = config.widths, 0.0
    for level, width in enumerate(widths):
        before, pixels = widths[max(level - 1, 0)], 4.0**-level
        worst = max(worst, (2 * before + width) * pixels, 3 * width * pixels)
    return worst


def _describe(config: KLConfig) -> Autoencoder:
    return Autoencoder(
        channels=config.embed_dim,
        downscale=config.downscale,
        encode=encoded,
        decode=decoded,
        encode_peak=Peak(WORKSPACE * encode_peak(config)),
        decode_peak=Peak(WORKSPACE * decode_peak(config)),
        colours=config.in_channels,
    )


def _keeps_width(header: CheckpointHeader) -> bool:
    """Whether a smaller level begins with as many channels; there are autoencoders that fold pixels into channels."""
    shapes = header.shapes()
    size = shapes.get("encoder.down.0.downsample.conv.weight")
    return size is None or size[0] == size[1]


AUTOENCODER = AutoencoderKind(
    name="kl-vae",
    title="KL autoencoder",
    marks=(
        has("encoder.conv_in.weight"),
        has("decoder.conv_in.weight"),
        has("decoder.up.0.block.0.conv1.weight"),
        Mark("convolutions over two axes", lambda header: len(header.shapes().get("decoder.conv_in.weight", ())) == 4),
        Mark("downsampling that keeps the channels", _keeps_width),
        lacks("decoder.mid.block_1.mix_factor"),  # of videos
    ),
    infer_config=lambda header, overrides: KLConfig.from_state(header.shapes(), overrides),
    network=AutoencoderKL,
    describe=_describe,
    convert=vae_from_diffusers,
)
