"""Latent formats: how a family's autoencoder scales what its diffusion model sees."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput


@cache
def preview_table() -> dict[str, dict[str, Any]]:
    """How previews are made, by latent space."""
    table: dict[str, dict[str, Any]] = json.loads(files(__package__).joinpath("latent_preview.json").read_text())
    return table


def preview_entry(name: str | None) -> dict[str, Any]:
    """How previews of one latent space are made; empty for one that has none."""
    return preview_table().get(name or "", {})


@dataclass(frozen=True)
class LatentFormat:
    """The latent space of a model family.

    channels: latent channels. dims: spatial axes (1 sound, 2 pictures, 3 video). downscale: pixels a cell.
    Model space is (latent - shift_factor) * scale_factor, or, with per-channel statistics, (latent - mean) / std *
    scale_factor. preview: entry of latent_preview.json; taesd: name of the small decoder's file.
    clean_inpaint: outside an inpaint mask the model is shown the clean latent instead of a noised one.
    """

    channels: int = 4
    dims: int = 2
    downscale: int = 8
    scale_factor: float = 1.0
    shift_factor: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    preview: str | None = None
    taesd: str | None = None
    clean_inpaint: bool = False

    def refuse_other(self, latent: Tensor) -> None:
        """Raise BadInput for a latent (B, C, …) of another space: of other channels, or of videos where it has none."""
        if latent.shape[1] != self.channels:
            found, own = f"{latent.shape[1]} channels", str(self.channels)
        elif latent.ndim > self.dims + 2:
            found, own = f"{latent.ndim} axes, as those of videos have", f"{self.dims + 2}"
        else:
            return
        raise BadInput(
            f"The latent has {found}, this model's have {own}.",
            why="It was encoded for another model family.",
            do="Encode the picture with this model's VAE, or start from an empty latent.",
        )

    def process_in(self, latent: Tensor) -> Tensor:
        """Autoencoder space to model space; latent is (B, C, ...) with any number of spatial axes."""
        if self.mean is not None and self.std is not None:
            mean, std = self._per_channel(self.mean, latent), self._per_channel(self.std, latent)
            return (latent - mean) * self.scale_factor / std
        return (latent - self.shift_factor) * self.scale_factor

    def process_out(self, latent: Tensor) -> Tensor:
        """Model space to autoencoder space: the inverse of `process_in`."""
        if self.mean is not None and self.std is not None:
            mean, std = self._per_channel(self.mean, latent), self._per_channel(self.std, latent)
            return latent * std / self.scale_factor + mean
        return latent / self.scale_factor + self.shift_factor

    # The same under the names that packs read.

    @property
    def latent_channels(self) -> int:
        """Channels."""
        return self.channels

    @property
    def latent_dimensions(self) -> int:
        """Spatial axes."""
        return self.dims

    @property
    def taesd_decoder_name(self) -> str | None:
        """Name of the small decoder's file."""
        return self.taesd

    @property
    def latent_rgb_factors(self) -> list[list[float]] | None:
        """What a preview multiplies the channels with."""
        return preview_entry(self.preview).get("factors")

    @property
    def latent_rgb_factors_bias(self) -> list[float] | None:
        """What it adds."""
        return preview_entry(self.preview).get("bias")

    @staticmethod
    def _per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, *[1] * (like.ndim - 2))
