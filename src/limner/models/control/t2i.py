"""T2I adapters: small networks that look at the hint once, not at the latent. Mou et al. 2023.

Full ones are residual blocks at halving sizes, light ones narrow such blocks between 1×1 convolutions; those of
Stable Diffusion XL begin at a sixteenth of the picture's size. What they make is added on the UNet's way down.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput
from limner.memory import casting
from limner.models.control.base import ControlBase, Residuals, broadcast_image_to
from limner.models.control.kind import ControlFile, ControlKind, Layout
from limner.models.family import Mark, has, lacks
from limner.models.layers.shapes import Overrides, Shapes, count, shape
from limner.models.patcher import ModelPatcher
from limner.sampling.resize import common_upscale
from limner.weights import CheckpointHeader
from limner.weights.ops import Conv2d

XL_CHANNELS = (256, 768)
"""Channels of one grey or three colour channels after a PixelUnshuffle by 16."""
LEVELS = 4
"""Sizes at which a full adapter has features."""


@dataclass(frozen=True)
class AdapterConfig:
    """unshuffle: pixels of a side that become channels. widths: channels of each level's features; depth: residual
    blocks of each. kernel: of their second convolution. inner: their channels, in light ones. xl: where the UNet has
    nine blocks on its way down, as Stable Diffusion XL's.
    """

    colours: int
    unshuffle: int
    widths: tuple[int, ...]
    depth: int
    light: bool = False
    xl: bool = False
    kernel: int = 1
    inner: tuple[int, ...] = ()

    @classmethod
    def from_state(cls, shapes: Shapes, overrides: Overrides) -> AdapterConfig:
        """Read the dimensions off the tensors."""
        del overrides
        light = "body.0.in_conv.weight" in shapes
        channels = shape(shapes, "body.0.in_conv.weight" if light else "conv_in.weight", 4)[1]
        xl = not light and channels in XL_CHANNELS
        unshuffle = 16 if xl else 8
        if light:
            levels = count(shapes, "body.{}.in_conv.")
            widths = tuple(shape(shapes, f"body.{n}.out_conv.weight", 4)[0] for n in range(levels))
            inner = tuple(shape(shapes, f"body.{n}.in_conv.weight", 4)[0] for n in range(levels))
            depth = count(shapes, "body.0.body.{}.")
            return cls(channels // unshuffle**2, unshuffle, widths, depth, True, False, 3, inner)
        blocks = count(shapes, "body.{}.")
        if not blocks or blocks % LEVELS:
            raise BadInput(f"A T2I adapter of {blocks} blocks.", why=f"They must belong to {LEVELS} levels alike.")
        depth = blocks // LEVELS
        widths = tuple(shape(shapes, f"body.{n}.block1.weight", 4)[0] for n in range(0, blocks, depth))
        kernel = shape(shapes, "body.0.block2.weight", 4)[2]
        return cls(channels // unshuffle**2, unshuffle, widths, depth, False, xl, kernel)


class AdapterBlock(nn.Module):
    """x + conv(relu(conv(x))), x halved and widened before where that is said."""

    def __init__(self, before: int, width: int, kernel: int, halve: bool = False) -> None:
        super().__init__()
        self.halve = halve
        if before != width:
            self.in_conv = Conv2d(before, width, 1)
        self.widens = before != width
        self.block1 = Conv2d(width, width, 3, padding=1)
        self.block2 = Conv2d(width, width, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, before, H, W) → (B, width, H or ⌈H/2⌉, W or ⌈W/2⌉)."""
        if self.halve:
            x = F.avg_pool2d(x, 2, stride=2, ceil_mode=True)
        if self.widens:
            x = self.in_conv(x)
        return x + self.block2(F.relu(self.block1(x)))


class LightBlock(nn.Module):
    """Narrow residual blocks between 1×1 convolutions."""

    def __init__(self, before: int, inner: int, width: int, depth: int, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        self.in_conv = Conv2d(before, inner, 1)
        self.body = nn.Sequential(*(AdapterBlock(inner, inner, 3) for _ in range(depth)))
        self.out_conv = Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, before, H, W) → (B, width, H or ⌈H/2⌉, W or ⌈W/2⌉)."""
        if self.halve:
            x = F.avg_pool2d(x, 2, stride=2, ceil_mode=True)
        return self.out_conv(self.body(self.in_conv(x)))


class Adapter(nn.Module):
    """A hint to features of each size: what is added after the levels of a UNet's way down."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.unshuffle_amount = config.unshuffle
        self.input_channels = config.colours
        self.xl = config.xl
        shuffled = config.colours * config.unshuffle**2
        before = (shuffled if config.light else config.widths[0], *config.widths)
        body: list[nn.Module] = []
        for level, width in enumerate(config.widths):
            halve = level == 2 if config.xl else level > 0
            if config.light:
                body.append(LightBlock(before[level], config.inner[level], width, config.depth, halve))
                continue
            body.append(AdapterBlock(before[level], width, config.kernel, halve))
            body += [AdapterBlock(width, width, config.kernel) for _ in range(config.depth - 1)]
        self.body = nn.ModuleList(body)
        if not config.light:
            self.conv_in = Conv2d(shuffled, config.widths[0], 3, padding=1)

    def features(self, x: Tensor) -> list[Tensor]:
        """x: (B, colours, H, W) in 0..1, sides multiples of `unshuffle_amount` → the features of each level."""
        x = F.pixel_unshuffle(x, self.unshuffle_amount)
        if not self.config.light:
            x = self.conv_in(x)
        found = []
        step = 1 if self.config.light else self.config.depth
        for number, block in enumerate(self.body, 1):
            x = block(x)
            if number % step == 0:
                found.append(x)
        return found

    def forward(self, x: Tensor) -> Residuals:
        """The features where they belong in a UNet: "input" is used from its end, as a UNet's `control` is.

        They go after the second block of each level. Of XL the first goes to the first halving, which is at its
        size, the next two after their levels, the last to the middle.
        """
        found = self.features(x)
        if self.xl:
            first, second, third, last = found
            by_block: dict[int, Tensor] = {3: first, 5: second, 8: third}
            return {"input": [by_block.get(n) for n in reversed(range(9))], "middle": [last]}
        after = {3 * level + 2: feature for level, feature in enumerate(found)}
        return {"input": [after.get(n) for n in reversed(range(3 * len(found)))]}


class T2IAdapter(ControlBase):
    """A control that looks at its hint once in a run. t2i_model: an adapter, or one from a file as a model."""

    def __init__(
        self,
        t2i_model: Any,
        channels_in: int,
        compression_ratio: int,
        upscale_algorithm: str = "nearest-exact",
        device: Any = None,
    ) -> None:
        super().__init__()
        self.channels_in = channels_in
        self.control_input: Residuals | None = None
        self.compression_ratio = compression_ratio
        self.upscale_algorithm = upscale_algorithm
        self.device = device
        self.t2i_wrapped: ModelPatcher = (
            t2i_model
            if isinstance(t2i_model, ModelPatcher)
            else ModelPatcher(t2i_model, device or torch.device("cpu"), torch.device("cpu"))
        )

    @property
    def t2i_model(self) -> Any:
        """The network; loaded when it is asked for."""
        return self.t2i_wrapped.model

    def scale_image_to(self, width: int, height: int) -> tuple[int, int]:
        """Width and height rounded up to what the network can take apart."""
        step = self.compression_ratio
        return math.ceil(width / step) * step, math.ceil(height / step) * step

    def get_models(self) -> list[Any]:
        """The networks of the chain."""
        return [*super().get_models(), self.t2i_wrapped]

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict[str, Any], batched_number: int, transformer_options: dict[str, Any]
    ) -> Residuals | None:
        """The features for latents x_noisy (B, C, h, w), if sigmas t lie in the range, with those before it."""
        previous = self.previous_control(x_noisy, t, cond, batched_number, transformer_options)
        if not self.active(t):
            return previous
        if self.control_input is None or self._hint_size != tuple(x_noisy.shape[-2:]):
            hint = casting.cast_to(self.make_hint(x_noisy), device=x_noisy.device)
            with self.t2i_wrapped.loaded() as network:
                self.control_input = network(hint.to(self.t2i_wrapped.model_dtype() or hint.dtype))
            self._hint_size = tuple(x_noisy.shape[-2:])
        rows = x_noisy.shape[0]
        features: Residuals = {
            part: [one if one is None else broadcast_image_to(one, rows, batched_number) for one in several]
            for part, several in (self.control_input or {}).items()
        }
        return self.control_merge(features, previous, self.output_dtype)

    output_dtype: torch.dtype | None = None

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """A run begins."""
        super().pre_run(model, percent_to_timestep_function)
        get_dtype = getattr(model, "get_dtype", None)
        self.output_dtype = None if get_dtype is None else get_dtype()

    def make_hint(self, x_noisy: Tensor) -> Tensor:
        """The hint at eight times the latents' size, in as many channels as the network takes."""
        if self.cond_hint_original is None:
            raise BadInput("A T2I adapter without a picture.", do="Give it one with Apply ControlNet.")
        width, height = self.scale_image_to(x_noisy.shape[-1] * 8, x_noisy.shape[-2] * 8)
        hint = common_upscale(self.cond_hint_original, width, height, self.upscale_algorithm, "center")
        if self.channels_in == 1 and hint.shape[1] > 1:
            hint = hint.mean(dim=1, keepdim=True)
        return hint

    def cleanup(self) -> None:
        """The run has ended."""
        self.control_input = self.output_dtype = None
        super().cleanup()

    def copy(self) -> Any:
        """One with a hint of its own; the weights are shared."""
        c = type(self)(self.t2i_wrapped, self.channels_in, self.compression_ratio, self.upscale_algorithm, self.device)
        self.copy_to(c)
        return c


# -- files ------------------------------------------------------------------------------------------------------------


def from_diffusers(header: CheckpointHeader) -> CheckpointHeader:
    """An adapter of the diffusers library, or with `adapter.` before its names, under the original names."""
    inside = header.select("adapter.")
    light = "body.0.in_conv.weight" in inside and "conv_in.weight" not in inside
    depth = inside.count("body.0.resnets.{}.block1.weight")

    def renamed(name: str) -> str:
        if match := re.match(r"body\.(\d+)\.resnets\.(\d+)\.(.*)", name):
            level, number, rest = int(match[1]), int(match[2]), match[3]
            return f"body.{level}.body.{number}.{rest}" if light else f"body.{level * depth + number}.{rest}"
        if not light and depth and (match := re.match(r"body\.(\d+)\.in_conv\.(.*)", name)):
            return f"body.{int(match[1]) * depth}.in_conv.{match[2]}"
        return name

    return inside.rename(renamed)


def infer_config(header: CheckpointHeader, said: Mapping[str, Any]) -> AdapterConfig:
    """The dimensions from the tensors."""
    return AdapterConfig.from_state(header.shapes(), said)


def make(kind: ControlKind, file: ControlFile) -> ControlBase:
    """The control of a file."""
    config = kind.infer_config(file.header, file.said)
    made = T2IAdapter(
        file.patcher(kind, partial(kind.network, config)), config.colours, config.unshuffle, device=file.memory.device
    )
    made.residuals_of_cell = residuals(config)
    return made


def residuals(config: AdapterConfig) -> float:
    """Numbers of all features for each latent cell of 8 pixels a side."""
    halved = (1, 1, 2, 2) if config.xl else range(len(config.widths))
    found = sum(width / 4**level for width, level in zip(config.widths, halved, strict=False))
    return found * (8 / config.unshuffle) ** 2 if not config.xl else found


CONTROL = ControlKind(
    name="t2i",
    title="T2I adapter",
    layouts=(
        Layout((has("body.0.in_conv.weight"), has("body.0.body.0.block1.weight"))),
        Layout((has("conv_in.weight"), has("body.0.block1.weight"), lacks("down_blocks.0.resnets.0.conv1.weight"))),
        Layout((Mark("adapter.body", lambda header: any(name.startswith("adapter.body.") for name in header)),),
               from_diffusers),
    ),
    infer_config=infer_config,
    network=Adapter,
    make=make,
)  # fmt: skip
