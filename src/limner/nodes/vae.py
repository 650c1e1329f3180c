"""Between pictures and latents, whole or in tiles."""

from __future__ import annotations

from typing import Annotated

from limner.graph import Image, Int, Latent, node
from limner.nodes.kinds import VAE

DecodeTile = Annotated[int, Int(min=64, max=4096, step=32)]
EncodeTile = Annotated[int, Int(min=64, max=4096, step=64)]
Overlap = Annotated[int, Int(min=0, max=4096, step=32)]
Frames = Annotated[int, Int(min=8, max=4096, step=4)]
FrameOverlap = Annotated[int, Int(min=4, max=4096, step=4)]


@node("VAEDecode", category="latent", title="VAE Decode")
def decode(samples: Latent, vae: VAE) -> Image:
    """Latents to pictures.

    samples: the latents.
    vae: the autoencoder of the model they were sampled with.
    """
    return _as_batch(vae.decode(samples["samples"]))


@node("VAEEncode", category="latent", title="VAE Encode")
def encode(pixels: Image, vae: VAE) -> Latent:
    """Pictures to latents."""
    return {"samples": vae.encode(pixels[..., :3])}


@node("VAEDecodeTiled", category="_for_testing", title="VAE Decode (Tiled)")
def decode_tiled(
    samples: Latent,
    vae: VAE,
    tile_size: DecodeTile = 512,
    overlap: Overlap = 64,
    temporal_size: Frames = 64,
    *,
    temporal_overlap: FrameOverlap = 8,
) -> Image:
    """Latents to pictures in tiles of so many pixels and frames, which needs less memory."""
    if tile_size < overlap * 4:
        overlap = tile_size // 4
    if temporal_size < temporal_overlap * 2:
        temporal_overlap //= 2
    cell, step = vae.spacial_compression_decode(), vae.temporal_compression_decode()
    frames = frame_overlap = None
    if step is not None:
        frames = max(2, temporal_size // step)
        frame_overlap = max(1, min(frames // 2, temporal_overlap // step))
    pictures = vae.decode_tiled(
        samples["samples"],
        tile_x=tile_size // cell,
        tile_y=tile_size // cell,
        overlap=overlap // cell,
        tile_t=frames,
        overlap_t=frame_overlap,
    )
    return _as_batch(pictures)


@node("VAEEncodeTiled", category="_for_testing", title="VAE Encode (Tiled)")
def encode_tiled(
    pixels: Image,
    vae: VAE,
    tile_size: EncodeTile = 512,
    overlap: Overlap = 64,
    temporal_size: Frames = 64,
    *,
    temporal_overlap: FrameOverlap = 8,
) -> Latent:
    """Pictures to latents in tiles of so many pixels and frames, which needs less memory."""
    latent = vae.encode_tiled(
        pixels[..., :3],
        tile_x=tile_size,
        tile_y=tile_size,
        overlap=overlap,
        tile_t=temporal_size,
        overlap_t=temporal_overlap,
    )
    return {"samples": latent}


def _as_batch(pictures: Image) -> Image:
    """Frames of videos, (B, T, H, W, C), as a batch of pictures."""
    return pictures.flatten(0, 1) if pictures.ndim == 5 else pictures
