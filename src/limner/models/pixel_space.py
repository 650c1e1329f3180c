"""The autoencoder of models that work on pixels: a latent is the picture in -1..1."""

from __future__ import annotations

from torch import nn

from limner.memory import MemoryManager
from limner.models.autoencoder import VAE, Autoencoder
from limner.weights import NetworkSource


def pixel_space(memory: MemoryManager) -> VAE:
    """Pictures as latents of three channels and the same size."""
    kind = Autoencoder(
        channels=3,
        downscale=1,
        encode=lambda _network, pictures: pictures,
        decode=lambda _network, latent: latent,
        encode_bytes_per_pixel=12,
        decode_bytes_per_pixel=12,
    )
    return VAE(kind, NetworkSource("pixels", nn.Identity, {}, "pixel_space"), memory, "pixel_space")
