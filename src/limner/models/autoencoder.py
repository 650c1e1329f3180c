"""VAE: an autoencoder as it crosses node boundaries: pictures (B, H, W, C) in 0..1 to latents and back.

Videos are (B, T, H, W, C) on the way out; on the way in, the pictures of one batch are the frames of one video. It
splits batches by free memory and goes over to tiles where a whole picture does not fit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import BadInput, OutOfMemory
from limner.memory import MemoryManager, Precision
from limner.memory.policy import batch_that_fits
from limner.models.source_patcher import SourcePatcher
from limner.models.tiling import three_passes, tiled_scale_multidim
from limner.models.vae.kind import Autoencoder, Frames, Peak
from limner.weights import NetworkSource
from limner.weights.quant import counting_fallbacks

__all__ = ["VAE", "Autoencoder", "Frames", "Peak"]

_log = logging.getLogger(__name__)

DECODE_TILE, DECODE_OVERLAP = 64, 16  # latent cells
ENCODE_TILE, ENCODE_OVERLAP = 512, 64  # pixels
VIDEO_TILE, VIDEO_OVERLAP = 256, 64  # pixels; of videos, whose tiles are of all frames
ALL_FRAMES = 9999


class VAE:
    """An autoencoder with its weights. `source` None: a checkpoint without one, which says so when it is used."""

    def __init__(
        self, kind: Autoencoder | None, source: NetworkSource | None, memory: MemoryManager, file: str
    ) -> None:
        self._kind = kind
        self._source = source
        self.memory = memory
        self.file = file

    @property
    def kind(self) -> Autoencoder:
        """What it is. Raises BadInput when the checkpoint had none."""
        self.throw_exception_if_invalid()
        assert self._kind is not None  # noqa: S101 - the line above
        return self._kind

    @property
    def source(self) -> NetworkSource:
        """Its weights. Raises BadInput when the checkpoint had none."""
        self.throw_exception_if_invalid()
        assert self._source is not None  # noqa: S101 - the line above
        return self._source

    def throw_exception_if_invalid(self) -> None:
        """Raise BadInput when the checkpoint had no autoencoder."""
        if self._kind is None or self._source is None:
            raise BadInput(
                f"{self.file} holds no VAE.",
                why="The checkpoint has no tensors of an autoencoder that is known here.",
                do="Load one with Load VAE.",
            )

    # -- as packs reach into it -----------------------------------------------------------------------------------

    @property
    def first_stage_model(self) -> nn.Module:
        """The network; loaded when it is asked for."""
        with self.loaded() as network:
            return network

    @cached_property
    def patcher(self) -> SourcePatcher:
        """Its weights as a model."""
        return SourcePatcher(self.source, self.memory, self.memory.vae_device, self._precision)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.memory.vae_device

    @property
    def offload_device(self) -> torch.device:
        """Where it waits."""
        return torch.device("cpu")

    output_device = offload_device

    @property
    def vae_dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.dtype

    @property
    def downscale_ratio(self) -> int | tuple[Callable[[int], int], int, int]:
        """Pixels of one side that become one latent cell; of videos (latent frames of frames, height, width)."""
        frames, cell = self.kind.frames, self.kind.downscale
        return cell if frames is None else (frames.latents, cell, cell)

    @property
    def upscale_ratio(self) -> int | tuple[Callable[[int], int], int, int]:
        """Pixels of one side that one latent cell becomes; of videos (frames of latent frames, height, width)."""
        frames, cell = self.kind.frames, self.kind.downscale
        return cell if frames is None else (frames.pictures, cell, cell)

    @property
    def latent_dim(self) -> int:
        """Spatial axes of a latent, time among them."""
        return 2 if self.kind.frames is None else 3

    @property
    def not_video(self) -> bool:
        """Whether each picture of a batch is encoded by itself."""
        return self.kind.frames is None

    crop_input = True
    extra_1d_channel: int | None = None
    size: int | None = None

    @property
    def output_channels(self) -> int:
        """Channels of a picture."""
        return self.kind.colours

    def process_input(self, image: Tensor) -> Tensor:
        """0..1 to -1..1."""
        return image * 2 - 1

    def process_output(self, image: Tensor) -> Tensor:
        """-1..1 to 0..1."""
        return ((image + 1) / 2).clamp(0, 1)

    def memory_used_encode(self, shape: Sequence[int], dtype: torch.dtype) -> float:
        """Bytes that encoding one of some pictures (B, C, [T,] H, W) takes."""
        frames = shape[2] if len(shape) == 5 else 1
        return self.kind.encode_peak.elements(frames, shape[-1] * shape[-2]) * dtype.itemsize

    def memory_used_decode(self, shape: Sequence[int], dtype: torch.dtype) -> float:
        """Bytes that decoding one of some latents (B, C, [T,] h, w) takes."""
        kind = self.kind
        frames = 1 if kind.frames is None or len(shape) < 5 else kind.frames.pictures(shape[2])
        return kind.decode_peak.elements(frames, shape[-1] * shape[-2] * kind.downscale**2) * dtype.itemsize

    def decode_tiled_(self, samples: Tensor, tile_x: int = 64, tile_y: int = 64, overlap: int = 16) -> Tensor:
        """`decode_tiled` with channels second."""
        return self.decode_tiled(samples, tile_x, tile_y, overlap).movedim(-1, 1)

    def decode_tiled_3d(
        self,
        samples: Tensor,
        tile_t: int = 999,
        tile_x: int = 32,
        tile_y: int = 32,
        overlap: tuple[int, int, int] = (1, 8, 8),
    ) -> Tensor:
        """`decode_tiled` of videos with channels second; overlaps by axis, of which height's is that of width too."""
        return self.decode_tiled(samples, tile_x, tile_y, overlap[1], tile_t, overlap[0]).movedim(-1, 1)

    def encode_tiled_(self, pixel_samples: Tensor, tile_x: int = 512, tile_y: int = 512, overlap: int = 64) -> Tensor:
        """`encode_tiled` of pictures with channels second."""
        return self.encode_tiled(pixel_samples.movedim(1, -1), tile_x, tile_y, overlap)

    def encode_tiled_3d(
        self,
        samples: Tensor,
        tile_t: int = 9999,
        tile_x: int = 512,
        tile_y: int = 512,
        overlap: tuple[int, int, int] = (1, 64, 64),
    ) -> Tensor:
        """`encode_tiled` of videos with channels second."""
        return self.encode_tiled(samples.movedim(1, -1), tile_x, tile_y, overlap[1], tile_t, overlap[0])

    def model_size(self) -> int:
        """Bytes of its weights when loaded."""
        return self.source.nbytes(self._precision().storage)

    def get_ram_usage(self) -> int:
        """Bytes of its weights."""
        return self.model_size()

    # -- what it is -----------------------------------------------------------------------------------------------

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return self.kind.channels

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._precision().compute

    def spacial_compression_encode(self) -> int:
        """Pixels of one side that become one latent cell."""
        return self.kind.downscale

    def spacial_compression_decode(self) -> int:
        """Pixels of one side that one latent cell becomes."""
        return self.kind.downscale

    def temporal_compression_decode(self) -> int | None:
        """Frames that one latent frame becomes; None for pictures."""
        return None if self.kind.frames is None else self.kind.frames.group

    def temporal_compression_encode(self) -> int | None:
        """Frames that become one latent frame; None for pictures."""
        return self.temporal_compression_decode()

    def get_sd(self) -> dict[str, Tensor]:
        """Its weights, views of the file."""
        return {name: entry.read() for name, entry in self.source.tensors.items()}

    # -- decoding -------------------------------------------------------------------------------------------------

    def decode(self, latent: Tensor, vae_options: Mapping[str, Any] | None = None) -> Tensor:
        """Pictures from latents, in 0..1, float32.

        latent: (B, C, h, w) → (B, H, W, colours); (B, C, t, h, w) → (B, T, H, W, colours). A lone latent of a video
        autoencoder is a video of one frame; latent frames of an autoencoder of pictures are pictures.

        Raises BadInput for a latent of another number of channels or axes.
        """
        del vae_options  # of autoencoders that take some
        latents, shaped = self._latents(latent)
        each = int(self.memory_used_decode(latents.shape, self.dtype))
        if each > self._room():
            _log.info("The VAE decodes %s in tiles: a whole one needs about %d MB.", list(latent.shape), each >> 20)
            return self.decode_tiled(latent)
        try:
            with self.loaded(each) as network:
                size = batch_that_fits(self.memory.available(self.memory.vae_device), each, len(latents))
                found = _joined([self._decode(network, part) for part in torch.split(latents, size)])
            return shaped(_picture(found))
        except (OutOfMemory, torch.OutOfMemoryError):
            _log.warning("Out of memory while decoding: trying again in tiles.")
        return self.decode_tiled(latent)

    def decode_tiled(
        self,
        latent: Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        tile_t: int | None = None,
        overlap_t: int | None = None,
    ) -> Tensor:
        """The same in tiles of latent cells: of pictures the mean of three tilings.

        tile_t, overlap_t: latent frames of a tile of a video, and by how many tiles overlap.
        """
        kind, (latents, shaped) = self.kind, self._latents(latent)
        cells = (DECODE_TILE, DECODE_OVERLAP)
        if kind.frames is not None:
            cells = (VIDEO_TILE // kind.downscale, VIDEO_OVERLAP // kind.downscale)
        tile_x, tile_y = tile_x or cells[0], tile_y or cells[0]
        overlap = cells[1] if overlap is None else overlap
        tile_t = tile_t or ALL_FRAMES
        part = latents[:1, :, :tile_t] if kind.frames is not None else latents[:1]
        part = part[..., : 2 * tile_y, :tile_x]
        with self.loaded(int(self.memory_used_decode(part.shape, self.dtype))) as network:
            decode = partial(self._decode, network)
            if kind.frames is None:
                found = three_passes(
                    latents, decode, tile_x, tile_y,
                    overlap=overlap, scale=kind.downscale, out_channels=kind.colours,
                )  # fmt: skip
            else:
                found = tiled_scale_multidim(
                    latents,
                    decode,
                    (tile_t, tile_y, tile_x),
                    overlap=(1 if overlap_t is None else overlap_t, overlap, overlap),
                    scale=(kind.frames.pictures, kind.downscale, kind.downscale),
                    index_formulas=(kind.frames.group, kind.downscale, kind.downscale),
                    out_channels=kind.colours,
                )
        return shaped(_picture(found))

    def _latents(self, latent: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """A latent with the axes that the network takes, and what gives its pictures the axes that belong to it."""
        kind = self.kind
        if latent.ndim not in (4, 5):
            raise BadInput(
                f"A latent of shape {list(latent.shape)} cannot be decoded.",
                why="A VAE takes (batch, channels, height, width), of videos (batch, channels, frames, height, width).",
            )
        if latent.shape[1] != kind.channels:
            raise BadInput(
                f"{self.file} cannot decode a latent of {latent.shape[1]} channels.",
                why=f"Its own latents have {kind.channels}, so this one comes from a model with another VAE.",
                do="Load the VAE that belongs to the model.",
            )
        if kind.frames is not None and latent.ndim == 4:
            return latent.unsqueeze(2), lambda pictures: pictures.squeeze(1)
        if kind.frames is None and latent.ndim == 5:
            frames = latent.shape[2]
            return latent.movedim(2, 1).flatten(0, 1), lambda pictures: pictures.unflatten(0, (-1, frames))
        return latent, lambda pictures: pictures

    def _decode(self, network: nn.Module, latent: Tensor) -> Tensor:
        if self.kind.decode is None:
            raise BadInput(f"{self.file} cannot decode.", why="It holds only the encoder's half.")
        return self.kind.decode(network, self._prepared(latent)).float().cpu()

    # -- encoding -------------------------------------------------------------------------------------------------

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents of pictures, float32.

        pixels: (B, H, W, colours or more) in 0..1 → (B, C, h, w), of a video autoencoder (1, C, t, h, w): then a batch
        is one video, and (B, T, H, W, …) are several. Sides that are no multiple of the downscale are cut about the
        centre; frames that fill no group are left out.
        """
        pictures = self._signed(pixels)
        each = int(self.memory_used_encode(pictures.shape, self.dtype))
        if each > self._room():
            _log.info("The VAE encodes %s in tiles: a whole one needs about %d MB.", list(pixels.shape), each >> 20)
            return self._encode_in_tiles(pixels)
        try:
            with self.loaded(each) as network:
                size = batch_that_fits(self.memory.available(self.memory.vae_device), each, len(pictures))
                return _joined([self._encode(network, part) for part in torch.split(pictures, size)])
        except (OutOfMemory, torch.OutOfMemoryError):
            _log.warning("Out of memory while encoding: trying again in tiles.")
        return self._encode_in_tiles(pixels)

    def _encode_in_tiles(self, pixels: Tensor) -> Tensor:
        if self.kind.frames is None:
            return self.encode_tiled(pixels)
        return self.encode_tiled(pixels, VIDEO_TILE, VIDEO_TILE, VIDEO_OVERLAP)

    def encode_tiled(
        self,
        pixels: Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        tile_t: int | None = None,
        overlap_t: int | None = None,
    ) -> Tensor:
        """The same in tiles of pixels: of pictures the mean of three tilings. tile_t, overlap_t: in frames."""
        kind, pictures = self.kind, self._signed(pixels)
        tile_x, tile_y = tile_x or ENCODE_TILE, tile_y or ENCODE_TILE
        overlap = ENCODE_OVERLAP if overlap is None else overlap
        tile_t = tile_t or ALL_FRAMES
        part = pictures[:1, :, :tile_t] if kind.frames is not None else pictures[:1]
        part = part[..., : 2 * tile_y, :tile_x]
        with self.loaded(int(self.memory_used_encode(part.shape, self.dtype))) as network:
            encode = partial(self._encode, network)
            if kind.frames is None:
                return three_passes(
                    pictures, encode, tile_x, tile_y,
                    overlap=overlap, scale=kind.downscale, out_channels=kind.channels, downscale=True,
                )  # fmt: skip
            return tiled_scale_multidim(
                pictures,
                encode,
                (tile_t, tile_y, tile_x),
                overlap=(1 if overlap_t is None else overlap_t, overlap, overlap),
                scale=(kind.frames.latents, kind.downscale, kind.downscale),
                index_formulas=(kind.frames.group, kind.downscale, kind.downscale),
                out_channels=kind.channels,
                downscale=True,
            )

    def vae_encode_crop_pixels(self, pixels: Tensor) -> Tensor:
        """Sides cut about the centre to multiples of the downscale. pixels: (B, [T,] H, W, C)."""
        step = self.kind.downscale
        for axis in (-3, -2):
            extent = pixels.shape[axis]
            if extent < step:
                raise BadInput(f"A picture of {pixels.shape[-2]}×{pixels.shape[-3]} pixels cannot be encoded.",
                               why=f"This VAE makes one latent cell of {step}×{step} pixels.")  # fmt: skip
            pixels = pixels.narrow(axis, extent % step // 2, extent // step * step)
        return pixels

    def _signed(self, pixels: Tensor) -> Tensor:
        """Cropped, channels second, -1..1, with the axes that the network takes."""
        pictures = self.vae_encode_crop_pixels(pixels)[..., : self.kind.colours].movedim(-1, 1) * 2 - 1
        if pixels.ndim == 5:
            return pictures if self.kind.frames is not None else pictures.movedim(2, 1).flatten(0, 1)
        return pictures if self.kind.frames is None else pictures.movedim(0, 1)[None]

    def _encode(self, network: nn.Module, pictures: Tensor) -> Tensor:
        if self.kind.encode is None:
            raise BadInput(f"{self.file} cannot encode.", why="It holds only the decoder's half.")
        return self.kind.encode(network, self._prepared(pictures)).float().cpu()

    # -- both -----------------------------------------------------------------------------------------------------

    @contextmanager
    def loaded(self, working: int = 0) -> Iterator[nn.Module]:
        """The network, on its device, for as long as the block lasts. working: bytes needed besides."""
        device = self.memory.vae_device
        precision = self._precision()
        loaded = self.memory.loaded(
            self.source, precision.storage, device=device, working=working, passes=1, compute=precision.compute
        )
        with counting_fallbacks(), loaded as network:
            yield network

    def _precision(self) -> Precision:
        return self.memory.vae_precision(self.kind.dtypes)

    def _room(self) -> int:
        """Bytes that a computation may take beside the weights."""
        return self.memory.available(self.memory.vae_device) - self.model_size()

    def _prepared(self, tensor: Tensor) -> Tensor:
        device = self.memory.vae_device
        placed = self.memory.place(tensor.to(self.dtype), device)
        if placed.ndim != 4 or not self.memory.channels_last(device):
            return placed
        return placed.contiguous(memory_format=torch.channels_last)


def _joined(parts: list[Tensor]) -> Tensor:
    """Parts of a batch as one; a lone one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _picture(decoded: Tensor) -> Tensor:
    """(B, C, [T,] H, W) in -1..1 → (B, [T,] H, W, C) in 0..1, written over it."""
    return decoded.add_(1).div_(2).clamp_(0, 1).movedim(1, -1)
