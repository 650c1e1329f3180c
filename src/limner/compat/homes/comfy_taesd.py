"""comfy.taesd.taesd: the tiny autoencoder's layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from limner.compat.homes.comfy_ops import disable_weight_init as ops
from limner.weights import CheckpointHeader


def conv(n_in: int, n_out: int, **kwargs: Any) -> nn.Module:
    """A convolution of three by three that keeps the size."""
    return ops.Conv2d(n_in, n_out, 3, padding=1, **kwargs)


class Clamp(nn.Module):
    """x softly limited to -3..3."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return torch.tanh(x / 3) * 3


class Block(nn.Module):
    """Three convolutions added to the input."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv(n_in, n_out), nn.ReLU(), conv(n_out, n_out), nn.ReLU(), conv(n_out, n_out))
        self.skip: nn.Module = ops.Conv2d(n_in, n_out, 1, bias=False) if n_in != n_out else nn.Identity()
        self.fuse = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W)."""
        fused: Tensor = self.fuse(self.conv(x) + self.skip(x))
        return fused


def Encoder(latent_channels: int = 4) -> nn.Sequential:  # noqa: N802 - the published name
    """Pictures to latents, an eighth of the size."""
    layers: list[nn.Module] = [conv(3, 64), Block(64, 64)]
    for _ in range(3):
        layers += [conv(64, 64, stride=2, bias=False), Block(64, 64), Block(64, 64), Block(64, 64)]
    return nn.Sequential(*layers, conv(64, latent_channels))


def Decoder(latent_channels: int = 4) -> nn.Sequential:  # noqa: N802
    """Latents to pictures."""
    layers: list[nn.Module] = [Clamp(), conv(latent_channels, 64), nn.ReLU()]
    for _ in range(3):
        layers += [Block(64, 64), Block(64, 64), Block(64, 64), nn.Upsample(scale_factor=2), conv(64, 64, bias=False)]
    return nn.Sequential(*layers, Block(64, 64), conv(64, 3))


class TAESD(nn.Module):
    """The tiny autoencoder from its two files."""

    latent_magnitude = 3
    latent_shift = 0.5

    def __init__(self, encoder_path: Any = None, decoder_path: Any = None, latent_channels: int = 4) -> None:
        super().__init__()
        self.taesd_encoder, self.taesd_decoder = Encoder(latent_channels), Decoder(latent_channels)
        self.vae_scale = nn.Parameter(torch.tensor(1.0))
        self.vae_shift = nn.Parameter(torch.tensor(0.0))
        for network, path in ((self.taesd_encoder, encoder_path), (self.taesd_decoder, decoder_path)):
            if path is not None:
                header = CheckpointHeader.read(path)
                network.load_state_dict({name: header.tensor(name) for name in header})

    @staticmethod
    def scale_latents(x: Tensor) -> Tensor:
        """Latents to 0..1."""
        return x.div(6).add(0.5).clamp(0, 1)

    @staticmethod
    def unscale_latents(x: Tensor) -> Tensor:
        """0..1 to latents."""
        return x.sub(0.5).mul(6)

    def decode(self, x: Tensor) -> Tensor:
        """Pictures in -1..1."""
        decoded: Tensor = self.taesd_decoder((x - self.vae_shift) * self.vae_scale)
        return decoded.sub(0.5).mul(2)

    def encode(self, x: Tensor) -> Tensor:
        """Latents of pictures in -1..1."""
        encoded: Tensor = self.taesd_encoder(x * 0.5 + 0.5) / self.vae_scale
        return encoded + self.vae_shift
