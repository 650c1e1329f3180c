"""The causal video autoencoder of Wan 2.1, which is Qwen-Image's for pictures too. Wan team 2025, section 4.1.

Videos are (batch, colours, frames, height, width) in -1..1. A latent is 2^(levels - 1) times smaller each way; its
first frame is the video's first frame, each further one stands for 2^(temporal levels) frames.

No frame sees a later one, so a video is computed frame by frame, each layer keeping the two frames before; that is
exact, and needs no more memory for a long video than for a short one. A causal convolution of three frames is then a
convolution over two axes, with the frames' channels side by side, and of a lone picture only the last third of it:
what is before a first frame is zero. Attribute names are the keys of the published file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput
from limner.models.family import has, lacks
from limner.models.layers.activate import add_to, normed_silu
from limner.models.layers.shapes import Overrides, Shapes, agree, count, shape
from limner.models.vae.kind import WORKSPACE, Autoencoder, AutoencoderKind, Frames, Peak, decoded, encoded
from limner.models.vae.kl import AttnBlock
from limner.weights.header import CheckpointHeader
from limner.weights.ops import Conv2d, Conv3d, arrived

NORM_EPS = 1e-12
DECODING = 1.25 * WORKSPACE
"""Resident memory grew by 1.9 times the tensors' bytes where pictures are decoded on a CPU."""
Past = dict[nn.Module, list[Tensor]]
"""What each convolution over time has seen of one video: its last frames, the newest last."""
Stage = Callable[[Tensor, Past | None], Tensor | list[Tensor]]
"""A frame to a frame, or to none or several of them. Past None: the frame is a picture, with nothing to remember."""


@dataclass(frozen=True)
class WanConfig:
    """The dimensions of an autoencoder; the defaults are those of the published file."""

    dim: int = 96  # channels of the first level
    z_dim: int = 16  # channels of the latent
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)  # channels of each level, in units of dim
    num_res_blocks: int = 2  # a level of the encoder; a level of the decoder has one more
    attn_levels: tuple[int, ...] = ()  # levels of the encoder with attention after each block, beside the middle
    temperal_downsample: tuple[bool, ...] = (False, True, True)  # whether frames are halved after each level
    in_channels: int = 3

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.dim * mult for mult in self.dim_mult)

    @property
    def downscale(self) -> int:
        """How many pixels of one side a latent's pixel stands for."""
        return int(2 ** (len(self.dim_mult) - 1))

    @property
    def group(self) -> int:
        """How many frames a latent's frame stands for, after the first."""
        return int(2 ** sum(self.temperal_downsample))

    @classmethod
    def from_state(cls, shapes: Shapes, overrides: Overrides) -> WanConfig:
        """Read the dimensions off the tensors of a bare autoencoder.

        overrides: constructor arguments of the reference class; all that shapes tell must agree with them.

        Raises BadInput when a tensor is missing or the overrides contradict the shapes.
        """
        dim, in_channels = shape(shapes, "encoder.conv1.weight", 5)[:2]
        widths, blocks, halved, attention = [], [0], [], set()
        for number in range(count(shapes, "encoder.downsamples.{}")):
            name = f"encoder.downsamples.{number}"
            if f"{name}.residual.2.weight" in shapes:
                if not blocks[-1]:
                    widths.append(shape(shapes, f"{name}.residual.2.weight", 5)[0])
                blocks[-1] += 1
            elif f"{name}.to_qkv.weight" in shapes:
                attention.add(len(widths) - 1)
            else:
                shape(shapes, f"{name}.resample.1.weight", 4)
                halved.append(f"{name}.time_conv.weight" in shapes)
                blocks.append(0)
        if len(set(blocks)) != 1 or len(widths) != len(blocks):
            raise BadInput(f"The autoencoder's levels have {blocks} blocks.", why="Each level must have as many.")
        config = cls(
            dim=dim,
            z_dim=shape(shapes, "decoder.conv1.weight", 5)[1],
            dim_mult=tuple(width // dim for width in widths),
            num_res_blocks=blocks[0],
            attn_levels=tuple(sorted(attention)),
            temperal_downsample=tuple(halved),
            in_channels=in_channels,
        )
        if config.widths != tuple(widths):
            raise BadInput(f"The autoencoder's levels are {widths} channels wide.", why=f"Not multiples of {dim}.")
        for name in ("dim", "z_dim", "dim_mult", "num_res_blocks", "temperal_downsample", "in_channels"):
            agree(overrides, name, getattr(config, name))
        return config


class RMSNorm(nn.Module):
    """x / ‖x‖ · √channels · gamma, over the channels of each place. Zhang & Sennrich 2019.

    images: whether gamma is kept for (B, C, H, W), else for (B, C, T, H, W); both are taken.
    """

    def __init__(self, dim: int, channel_first: bool = True, images: bool = True, bias: bool = False) -> None:
        super().__init__()
        kept = (dim, *[1] * (2 if images else 3)) if channel_first else (dim,)
        self.channel_first, self.scale = channel_first, dim**0.5
        self.gamma = nn.Parameter(torch.ones(kept))
        self.bias = nn.Parameter(torch.zeros(kept)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, …), or (…, C) where channels are last → the same shape; the length is taken in float32."""
        axis = 1 if self.channel_first else -1
        factor = self.scale / length(x, axis).clamp_min(NORM_EPS)
        gamma = self._placed(self.gamma, x)
        bias = None if self.bias is None else self._placed(self.bias, x)
        if torch.is_grad_enabled():
            normed = (x * factor).to(x.dtype) * gamma
            return normed if bias is None else normed + bias
        normed = torch.mul(x, factor, out=torch.empty_like(x)).mul_(gamma)
        return normed if bias is None else normed.add_(bias)

    def _placed(self, parameter: Tensor, x: Tensor) -> Tensor:
        found = parameter.to(x.dtype)
        return found.view(-1, *[1] * (x.ndim - 2)) if self.channel_first else found


def length(x: Tensor, axis: int) -> Tensor:
    """‖x‖ along an axis, which stays as one, in float32 at least.

    On the CPU torch's own is several times slower along any axis but the last, and x² would be as large as x; so it is
    summed channel by channel there.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    if x.device.type != "cpu" or axis in (-1, x.ndim - 1) or torch.is_grad_enabled():
        return torch.linalg.vector_norm(x, dim=axis, keepdim=True, dtype=wide)
    total = torch.zeros_like(x.select(axis, 0), dtype=wide)
    for narrow in x.unbind(axis):
        channel = narrow.to(wide)
        total.addcmul_(channel, channel)
    return total.sqrt_().unsqueeze(axis)


class CausalConv3d(Conv3d):
    """A convolution over frames, height and width that sees no later frame: all padding of time is in front."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int, int],
        stride: int | tuple[int, int, int] = 1,
        padding: int | tuple[int, int, int] = 0,
        **kwargs: object,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, **kwargs)  # type: ignore[arg-type]
        self.before = 2 * int(self.padding[0])  # zero frames in front
        self.padding = (0, *self.padding[1:])

    def forward(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        """x: (B, C, T, H, W), all frames at once. past: frames before them (B, C, t, H, W), else zeros."""
        missing = self.before
        if past is not None and missing:
            x = torch.cat([past, x], dim=2)
            missing = max(0, missing - past.shape[2])
        return super().forward(F.pad(x, (0, 0, 0, 0, missing, 0)) if missing else x)

    def last(self, taps: list[Tensor]) -> Tensor:
        """The result for the last of some frames (B, C, H, W) in a row; what is before the first is zero.

        The list is emptied, so that a frame nobody else holds is gone before the convolution.
        """
        frames = len(taps)
        x = taps[0] if frames == 1 else torch.stack(taps, dim=2).flatten(1, 2)
        taps.clear()
        weight, bias = arrived(self, x)
        seen = weight[:, :, self.kernel_size[0] - frames :].flatten(1, 2)
        return F.conv2d(x, seen, bias, self.stride[1:], self.padding[1:])

    def step(self, x: Tensor, past: Past | None) -> Tensor:
        """The result for one more frame (B, C, H, W), which is remembered."""
        keep = self.kernel_size[0] - 1
        if past is None or not keep:
            return self.last([x])
        taps = [*past.get(self, ()), x]
        past[self] = taps[-keep:]
        return self.last(taps)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a convolution of one pixel where the width changes."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            RMSNorm(in_dim, images=False),
            nn.SiLU(),
            CausalConv3d(in_dim, out_dim, 3, padding=1),
            RMSNorm(out_dim, images=False),
            nn.SiLU(),
            nn.Dropout(0.0),
            CausalConv3d(out_dim, out_dim, 3, padding=1),
        )
        self.shortcut = CausalConv3d(in_dim, out_dim, 1) if in_dim != out_dim else nn.Identity()

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        """x: one frame (B, in, H, W) → (B, out, H, W)."""
        norm1, _, conv1, norm2, _, _, conv2 = self.residual
        h = conv1.step(normed_silu(norm1, x), past)  # type: ignore[operator]
        h = normed_silu(norm2, h)  # a line of its own: what was normed is gone before the convolution
        h = conv2.step(h, past)  # type: ignore[operator]
        short = self.shortcut.last([x]) if isinstance(self.shortcut, CausalConv3d) else x
        return add_to(h, short)


class AttentionBlock(nn.Module):
    """Self-attention of one head over the pixels of a frame, added to its input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = RMSNorm(dim)
        self.to_qkv = Conv2d(dim, dim * 3, 1)
        self.proj = Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        """x: one frame (B, C, H, W) → the same shape."""
        del past
        q, k, v = self.to_qkv(self.norm(x)).chunk(3, dim=1)
        return add_to(self.proj(AttnBlock.optimized_attention(q, k, v)), x)


class Upsample(nn.Upsample):
    """Enlarge by nearest neighbours, in the dtype of the input."""


class Resample(nn.Module):
    """Half or twice the size, and, where `mode` ends in 3d, half or twice the frames but for a video's first.

    mode: downsample2d, downsample3d, upsample2d or upsample3d. Upwards the channels are halved.
    """

    def __init__(self, dim: int, mode: str) -> None:
        super().__init__()
        self.dim, self.mode = dim, mode
        up = mode.startswith("up")
        if up:
            self.resample = nn.Sequential(Upsample(scale_factor=2.0), Conv2d(dim, dim // 2, 3, padding=1))
        else:
            self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), Conv2d(dim, dim, 3, stride=2))
        self.time_conv: CausalConv3d | None = None
        if mode == "upsample3d":
            self.time_conv = CausalConv3d(dim, dim * 2, (3, 1, 1), padding=(1, 0, 0))
        elif mode == "downsample3d":
            self.time_conv = CausalConv3d(dim, dim, (3, 1, 1), stride=(2, 1, 1))

    def stages(self) -> list[Stage]:
        """Frames are doubled before the size is, and halved after it is."""
        if self.time_conv is None:
            return [self._space]
        if self.mode == "upsample3d":
            return [partial(self._doubled, self.time_conv), self._space]
        return [self._space, partial(self._halved, self.time_conv)]

    def _space(self, x: Tensor, past: Past | None) -> Tensor:
        del past
        resized: Tensor = self.resample(x)
        return resized

    @staticmethod
    def _doubled(conv: CausalConv3d, x: Tensor, past: Past | None) -> Tensor | list[Tensor]:
        if past is None or conv not in past:  # the first frame is one, and is not remembered
            if past is not None:
                past[conv] = []
            return x
        return list(conv.step(x, past).chunk(2, dim=1))

    @staticmethod
    def _halved(conv: CausalConv3d, x: Tensor, past: Past | None) -> Tensor | list[Tensor]:
        if past is None or conv not in past:
            if past is not None:
                past[conv] = [x]
            return x
        taps = [*past[conv], x]
        if len(taps) < conv.kernel_size[0]:
            past[conv] = taps
            return []
        past[conv] = [x]
        return conv.last(taps)


class Coder(nn.Module):
    """What encoder and decoder have in common: layers through which frames go one by one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def layers(self) -> list[nn.Module]:
        """The layers in order."""
        raise NotImplementedError

    def stream(self, x: Tensor, past: Past | None) -> Iterator[Tensor]:
        """One frame (B, C, H, W) through all layers: the frames that come out, none or several."""
        stages = [stage for layer in self.layers() for stage in _stages(layer)]
        waiting: list[tuple[int, Tensor]] = [(0, x)]
        del x
        while waiting:
            start, frame = waiting.pop()
            for number in range(start, len(stages)):
                made = stages[number](frame, past)
                if isinstance(made, list):
                    waiting += [(number + 1, one) for one in reversed(made)]
                    del frame, made
                    break
                frame = made
            else:
                yield frame


def _stages(layer: nn.Module) -> list[Stage]:
    if isinstance(layer, Resample):
        return layer.stages()
    if isinstance(layer, CausalConv3d):
        return [layer.step]
    if isinstance(layer, nn.Sequential):  # the last norm, activation and convolution
        norm, _, conv = layer
        return [lambda x, past: conv.step(normed_silu(norm, x), past)]  # type: ignore[operator]
    return [layer]


class Encoder3d(Coder):
    """Frames to moments of latent frames."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__(config.dim)
        widths = config.widths
        self.conv1 = CausalConv3d(config.in_channels, config.dim, 3, padding=1)
        downsamples: list[nn.Module] = []
        before = config.dim
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                downsamples.append(ResidualBlock(before, width))
                if level in config.attn_levels:
                    downsamples.append(AttentionBlock(width))
                before = width
            if level < len(widths) - 1:
                downsamples.append(
                    Resample(width, "downsample3d" if config.temperal_downsample[level] else "downsample2d")
                )
        self.downsamples = nn.Sequential(*downsamples)
        self.middle = nn.Sequential(
            ResidualBlock(before, before), AttentionBlock(before), ResidualBlock(before, before)
        )
        self.head = nn.Sequential(
            RMSNorm(before, images=False), nn.SiLU(), CausalConv3d(before, 2 * config.z_dim, 3, padding=1)
        )

    def layers(self) -> list[nn.Module]:
        """The layers in order."""
        return [self.conv1, *self.downsamples, *self.middle, self.head]


class Decoder3d(Coder):
    """Latent frames to frames; its levels run from the last to the first."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__(config.dim)
        widths, last = config.widths, len(config.dim_mult) - 1
        top = widths[last]
        self.conv1 = CausalConv3d(config.z_dim, top, 3, padding=1)
        self.middle = nn.Sequential(ResidualBlock(top, top), AttentionBlock(top), ResidualBlock(top, top))
        upsamples: list[nn.Module] = []
        before = top
        for level in range(last, -1, -1):
            width = widths[level]
            for _ in range(config.num_res_blocks + 1):
                upsamples.append(ResidualBlock(before, width))
                if level in config.attn_levels:
                    upsamples.append(AttentionBlock(width))
                before = width
            if level:
                upsamples.append(
                    Resample(width, "upsample3d" if config.temperal_downsample[level - 1] else "upsample2d")
                )
                before = width // 2
        self.upsamples = nn.Sequential(*upsamples)
        self.head = nn.Sequential(
            RMSNorm(before, images=False), nn.SiLU(), CausalConv3d(before, config.in_channels, 3, padding=1)
        )

    def layers(self) -> list[nn.Module]:
        """The layers in order."""
        return [self.conv1, *self.middle, *self.upsamples, self.head]


class WanVAE(nn.Module):
    """Encoder and decoder, with the two convolutions of one pixel between network and latent."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.config = config
        self.dim, self.z_dim = config.dim, config.z_dim
        self.encoder = Encoder3d(config)
        self.conv1 = CausalConv3d(2 * config.z_dim, 2 * config.z_dim, 1)
        self.conv2 = CausalConv3d(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder3d(config)

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the posterior of videos in -1..1. Frames that fill no group are left out."""
        group = self.config.group
        kept = (pixels.shape[2] - 1) // group * group + 1
        past: Past | None = {} if kept > 1 else None
        found = [out for t in range(kept) for out in self.encoder.stream(pixels[:, :, t], past)]
        mean, log_variance = self.conv1(torch.stack(found, dim=2)).chunk(2, dim=1)
        return mean, log_variance

    def encode(self, pixels: Tensor) -> Tensor:
        """pixels: (batch, colours, frames, height, width) in -1..1 → the posterior's mean, (batch, z, frames', …)."""
        return self.moments(pixels)[0]

    def decode(self, latent: Tensor) -> Tensor:
        """latent: (batch, z, frames', height', width') → videos about -1..1, not clamped."""
        steps = latent.shape[2]
        if not steps:
            raise BadInput("The latent has no frames.", why="There is nothing to decode.")
        z = self.conv2(latent)
        past: Past | None = {} if steps > 1 else None
        videos, number = latent.new_empty(0), 0
        for t in range(steps):
            for frame in self.decoder.stream(z[:, :, t], past):
                if not number:
                    frames = Frames(self.config.group).pictures(steps)
                    videos = frame.new_empty((*frame.shape[:2], frames, *frame.shape[2:]))
                videos[:, :, number] = frame
                number += 1
        return videos

    def forward(self, pixels: Tensor) -> Tensor:
        """There and back: the decoded mean."""
        return self.decode(self.encode(pixels))


def decode_peak(config: WanConfig, video: bool) -> float:
    """Elements for each pixel of a frame at the worst moment of decoding.

    Of a video: two remembered frames of every convolution, and in a block its input, three frames side by side, the
    result. Of a picture: a block's input, normed input and result. Of a change of size: input, enlarged input, result.
    """
    widths, last = config.widths, len(config.dim_mult) - 1
    kept = worst = 0.0
    before = widths[last]
    for level in range(last, -1, -1):
        width, pixels = widths[level], 4.0**-level
        kept += 2 * (before + (2 * config.num_res_blocks + 1) * width) * pixels
        worst = max(worst, _block(before, width, video) * pixels, _block(width, width, video) * pixels)
        if level:
            worst = max(worst, (width + 4 * width + 2 * width) * pixels)
            kept += 2 * width * pixels * config.temperal_downsample[level - 1]
        before = width // 2
    return worst + (kept + 2 * widths[0] if video else 0.0)


def encode_peak(config: WanConfig, video: bool) -> float:
    """The same of encoding."""
    kept = worst = 0.0
    before = config.dim
    for level, width in enumerate(config.widths):
        pixels = 4.0**-level
        kept += 2 * (before + (2 * config.num_res_blocks - 1) * width) * pixels
        worst = max(worst, _block(before, width, video) * pixels, _block(width, width, video) * pixels)
        before = width
    return worst + (kept if video else 0.0)


def _block(before: int, width: int, video: bool) -> float:
    return (4 if video else 2) * before + width


def _describe(config: WanConfig) -> Autoencoder:
    return Autoencoder(
        channels=config.z_dim,
        downscale=config.downscale,
        encode=encoded,
        decode=decoded,
        encode_peak=Peak(WORKSPACE * encode_peak(config, False), WORKSPACE * encode_peak(config, True), 3.0),
        decode_peak=Peak(DECODING * decode_peak(config, False), DECODING * decode_peak(config, True), 6.0),
        colours=config.in_channels,
        frames=Frames(config.group),
        dtypes=(torch.bfloat16, torch.float16, torch.float32),
    )


_BLOCK = {
    "norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6",
    "conv_shortcut": "shortcut",
}  # fmt: skip
_ENDS = {
    "conv_in": "conv1", "norm_out": "head.0", "conv_out": "head.2",
    "mid_block.resnets.0": "middle.0", "mid_block.attentions.0": "middle.1", "mid_block.resnets.1": "middle.2",
}  # fmt: skip


def from_diffusers(header: CheckpointHeader) -> CheckpointHeader:
    """The diffusers library's names (AutoencoderKLWan, AutoencoderKLQwenImage) told in the reference's."""
    if "decoder.up_blocks.0.resnets.0.norm1.gamma" not in header:
        return header
    blocks = header.count("decoder.up_blocks.0.resnets.{}.norm1.gamma")
    return header.rename(partial(_from_diffusers, blocks))


def _from_diffusers(blocks: int, name: str) -> str:
    if name.startswith(("quant_conv.", "post_quant_conv.")):
        return name.replace("post_quant_conv.", "conv2.").replace("quant_conv.", "conv1.")
    half, _, rest = name.partition(".")
    for theirs, ours in _ENDS.items():
        if rest.startswith(f"{theirs}."):
            rest = ours + rest[len(theirs) :]
            break
    else:
        kind, _, rest = rest.partition(".")
        if kind not in ("down_blocks", "up_blocks"):
            return name
        number, _, rest = rest.partition(".")
        place = int(number)
        if kind == "up_blocks":
            inside, index, rest = rest.split(".", 2)
            place = place * (blocks + 1) + (int(index) if inside == "resnets" else blocks)
        rest = f"{'upsamples' if kind == 'up_blocks' else 'downsamples'}.{place}.{rest}"
    parts = rest.split(".")
    return ".".join([half, *(_BLOCK.get(part, part) if at > 1 else part for at, part in enumerate(parts))])


AUTOENCODER = AutoencoderKind(
    name="wan-vae",
    title="Wan 2.1 autoencoder",
    marks=(
        has("decoder.middle.0.residual.0.gamma"),
        has("encoder.conv1.weight"),
        has("decoder.upsamples.0.residual.2.weight"),
        lacks("decoder.upsamples.0.upsamples.0.residual.2.weight"),  # of version 2.2
    ),
    infer_config=lambda header, overrides: WanConfig.from_state(header.shapes(), overrides),
    network=WanVAE,
    describe=_describe,
    convert=from_diffusers,
)
