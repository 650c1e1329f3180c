"""TAESD, a tiny autoencoder that knows the latents of a large one: for previews, and where time is short.

Attribute names are the keys of the two published files (`1.weight`, `3.conv.0.weight` …) under `taesd_encoder.` and
`taesd_decoder.`. Source: the model card of madebyollin/taesd.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.models.family import has
from limner.models.layers.activate import add_to
from limner.models.layers.shapes import Overrides, Shapes, agree, shape
from limner.models.vae.kind import Autoencoder, AutoencoderKind, Peak, decoded, encoded
from limner.weights.header import CheckpointHeader
from limner.weights.lazy import LazyTensor
from limner.weights.ops import Conv2d


@dataclass(frozen=True)
class TAESDConfig:
    """The dimensions of a tiny autoencoder."""

    latent_channels: int = 4
    width: int = 64

    @classmethod
    def from_state(cls, shapes: Shapes, overrides: Overrides) -> TAESDConfig:
        """Read the dimensions off the tensors of both halves under their prefixes.

        Raises BadInput when a tensor is missing or the overrides contradict the shapes.
        """
        width, latent_channels = shape(shapes, "taesd_decoder.1.weight", 4)[:2]
        config = cls(latent_channels, width)
        agree(overrides, "latent_channels", latent_channels)
        return config


def rectified(x: Tensor) -> Tensor:
    """max(x, 0), written over x, which must be the caller's own."""
    return F.relu(x, inplace=not torch.is_grad_enabled())


class Rectify(nn.Module):
    """ReLU of what a convolution before it has made."""

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape → the same shape."""
        return rectified(x)


class Block(nn.Module):
    """ReLU of three convolutions added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            Conv2d(width, width, 3, padding=1),
            Rectify(),
            Conv2d(width, width, 3, padding=1),
            Rectify(),
            Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, height, width) → the same shape."""
        return rectified(add_to(self.conv(x), x))


class SoftClamp(nn.Module):
    """3 · tanh(x / 3): keeps latents within what the network was trained on."""

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape → the same shape, within -3..3."""
        return torch.tanh(x / 3) * 3


class TinyEncoder(nn.Sequential):
    """Pictures (batch, 3, height, width) in 0..1 to latents 8 times smaller each way."""

    def __init__(self, config: TAESDConfig) -> None:
        width = config.width
        layers: list[nn.Module] = [Conv2d(3, width, 3, padding=1), Block(width)]
        for _ in range(3):
            layers.append(Conv2d(width, width, 3, padding=1, stride=2, bias=False))
            layers += [Block(width) for _ in range(3)]
        super().__init__(*layers, Conv2d(width, config.latent_channels, 3, padding=1))


class TinyDecoder(nn.Sequential):
    """Latents to pictures in about 0..1; usable alone, for previews."""

    def __init__(self, config: TAESDConfig) -> None:
        width = config.width
        layers: list[nn.Module] = [SoftClamp(), Conv2d(config.latent_channels, width, 3, padding=1), Rectify()]
        for blocks in (3, 3, 3, 1):
            layers += [Block(width) for _ in range(blocks)]
            if blocks == 3:
                layers += [nn.Upsample(scale_factor=2), Conv2d(width, width, 3, padding=1, bias=False)]
        super().__init__(*layers, Conv2d(width, 3, 3, padding=1))


class TAESD(nn.Module):
    """Encoder and decoder, with the same door as AutoencoderKL: pictures in -1..1, latents as the large one's.

    The halves know latents that are scaled to about unit variance: `vae_scale` and `vae_shift` lead there.
    """

    def __init__(self, config: TAESDConfig) -> None:
        super().__init__()
        self.config = config
        self.vae_scale = nn.Parameter(torch.ones(()))
        self.vae_shift = nn.Parameter(torch.zeros(()))
        self.taesd_encoder = TinyEncoder(config)
        self.taesd_decoder = TinyDecoder(config)

    def encode(self, pixels: Tensor) -> Tensor:
        """pixels: (batch, 3, height, width) in -1..1 → (batch, channels, height / 8, width / 8)."""
        latent = self.taesd_encoder(pixels * 0.5 + 0.5)
        return latent / self.vae_scale.to(latent.dtype) + self.vae_shift.to(latent.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """latent: (batch, channels, height, width) → pictures about -1..1, not clamped."""
        scaled = (latent - self.vae_shift.to(latent.dtype)) * self.vae_scale.to(latent.dtype)
        return (self.taesd_decoder(scaled) - 0.5) * 2


def _with_scale(header: CheckpointHeader) -> CheckpointHeader:
    """Files without a scale of their own hold latents as the tiny networks know them."""
    if "taesd_decoder.1.weight" not in header:
        return header
    given = {"vae_scale": LazyTensor.of(torch.tensor(1.0)), "vae_shift": LazyTensor.of(torch.tensor(0.0))}
    return replace(header, tensors=given | dict(header.tensors))


def _describe(config: TAESDConfig) -> Autoencoder:
    peak = Peak(5.0 * config.width)  # a block's input, its two convolutions' results, and what they take themselves
    return Autoencoder(config.latent_channels, 8, encoded, decoded, encode_peak=peak, decode_peak=peak)


AUTOENCODER = AutoencoderKind(
    name="taesd",
    title="tiny autoencoder",
    marks=(has("taesd_decoder.1.weight"), has("taesd_encoder.0.weight")),
    infer_config=lambda header, overrides: TAESDConfig.from_state(header.shapes(), overrides),
    network=TAESD,
    describe=_describe,
    convert=_with_scale,
)
