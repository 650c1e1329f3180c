"""comfy.ldm.modules.diffusionmodules.model and comfy.ldm.models.autoencoder: the autoencoder and its layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from limner.compat.homes.comfy_distributions import DiagonalGaussianDistribution
from limner.models.vae import kl

AutoencoderKL = kl.AutoencoderKL
AutoencodingEngine = kl.AutoencoderKL
AutoencodingEngineLegacy = kl.AutoencoderKL
Decoder = kl.Decoder
Encoder = kl.Encoder
ResnetBlock = kl.ResnetBlock
AttnBlock = kl.AttnBlock
Upsample = kl.Upsample
Downsample = kl.Downsample


def nonlinearity(x: Tensor) -> Tensor:
    """x · sigmoid(x)."""
    return x * torch.sigmoid(x)


def Normalize(in_channels: int, num_groups: int = 32) -> nn.Module:  # noqa: N802 - the published name
    """Group normalization."""
    return nn.GroupNorm(num_groups=num_groups, num_channels=in_channels, eps=1e-6, affine=True)


class DiagonalGaussianRegularizer(nn.Module):
    """What an encoder says, as a latent. sample: at random instead of the likeliest."""

    def __init__(self, sample: bool = False) -> None:
        super().__init__()
        self.sample = sample

    def forward(self, z: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """z: (B, 2 C, H, W) → (B, C, H, W)."""
        said = DiagonalGaussianDistribution(z)
        return said.sample() if self.sample else said.mode(), {}


class EmptyRegularizer(nn.Module):
    """What an encoder says as it is."""

    def forward(self, z: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """z as it is."""
        return z, {}
