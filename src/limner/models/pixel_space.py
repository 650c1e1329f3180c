"""The autoencoder of models that work on pixels: a latent is the picture in -1..1."""

from __future__ import annotations

from torch import nn

from limner.memory import MemoryManager
from limner.models.autoencoder import VAE, Autoencoder, Peak
from limner.weights import NetworkSource


def pixel_space(memory: MemoryManager) -> VAE:
    """Pictures as latents of three channels and the same size."""
    kind = Autoencoder(
        channels=3,
        downscale=1,
        encode=lambda _network, pictures: pictures,
        decode=lambda _network, latent: latent,
        encode_peak=Peak(6),
        decode_peak=Peak(6),
    )
    return VAE(kind, NetworkSource("pixels", nn.Identity, {}, "pixel_space"), memory, "pixel_space")
