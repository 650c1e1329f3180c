"""VAE: an autoencoder as it crosses node boundaries: pictures (B, H, W, C) in 0..1 to latents and back.

It splits batches by free memory and goes over to tiles where a whole picture does not fit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import BadInput, OutOfMemory
from limner.memory import MemoryManager
from limner.memory.policy import batch_that_fits
from limner.models.source_patcher import SourcePatcher
from limner.models.tiling import three_passes
from limner.weights import NetworkSource

_log = logging.getLogger(__name__)

DECODE_TILE, DECODE_OVERLAP = 64, 16  # latent cells
ENCODE_TILE, ENCODE_OVERLAP = 512, 64  # pixels


@dataclass(frozen=True)
class Autoencoder:
    """What a kind of autoencoder has that others have not.

    encode, decode: of the network, pictures in -1..1 (B, 3, H, W), latents as nodes see them. *_bytes_per_pixel: peak
    memory of a pass, in units of the dtype's size for each pixel of the picture; measured.
    """

    channels: int
    downscale: int
    encode: Callable[[nn.Module, Tensor], Tensor] | None
    decode: Callable[[nn.Module, Tensor], Tensor] | None
    encode_bytes_per_pixel: float
    decode_bytes_per_pixel: float
    colours: int = 3


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
        return SourcePatcher(self.source, self.memory, self.memory.vae_device, self.memory.vae_precision)

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
    def downscale_ratio(self) -> int:
        """Pixels of one side that become one latent cell."""
        return self.kind.downscale

    upscale_ratio = downscale_ratio
    latent_dim = 2
    not_video = True
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
        """Bytes that encoding pictures (B, C, H, W) takes."""
        return float(shape[-1] * shape[-2] * self.kind.encode_bytes_per_pixel * dtype.itemsize)

    def memory_used_decode(self, shape: Sequence[int], dtype: torch.dtype) -> float:
        """Bytes that decoding latents (B, C, h, w) takes."""
        pixels = shape[-1] * shape[-2] * self.kind.downscale**2
        return float(pixels * self.kind.decode_bytes_per_pixel * dtype.itemsize)

    def decode_tiled_(self, samples: Tensor, tile_x: int = 64, tile_y: int = 64, overlap: int = 16) -> Tensor:
        """`decode_tiled` with channels second."""
        return self.decode_tiled(samples, tile_x, tile_y, overlap).movedim(-1, 1)

    def encode_tiled_(self, pixel_samples: Tensor, tile_x: int = 512, tile_y: int = 512, overlap: int = 64) -> Tensor:
        """`encode_tiled` of pictures with channels second."""
        return self.encode_tiled(pixel_samples.movedim(1, -1), tile_x, tile_y, overlap)

    def model_size(self) -> int:
        """Bytes of its weights when loaded."""
        return self.source.nbytes(self.memory.vae_precision().storage)

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
        return self.memory.vae_precision().compute

    def spacial_compression_encode(self) -> int:
        """Pixels of one side that become one latent cell."""
        return self.kind.downscale

    def spacial_compression_decode(self) -> int:
        """Pixels of one side that one latent cell becomes."""
        return self.kind.downscale

    def temporal_compression_decode(self) -> int | None:
        """Frames that one latent frame becomes; None for pictures."""
        return None

    def get_sd(self) -> dict[str, Tensor]:
        """Its weights, views of the file."""
        return {name: entry.read() for name, entry in self.source.tensors.items()}

    # -- decoding -------------------------------------------------------------------------------------------------

    def decode(self, latent: Tensor, vae_options: Mapping[str, Any] | None = None) -> Tensor:
        """Pictures from latents. latent: (B, C, h, w) → (B, h · downscale, w · downscale, 3) in 0..1, float32."""
        del vae_options  # of autoencoders that take some
        each = self._decode_bytes(latent)
        if each > self.memory.available(self.memory.vae_device):
            _log.info("The VAE decodes %s in tiles: a whole picture needs about %d MB.", list(latent.shape), each >> 20)
            return self.decode_tiled(latent)
        try:
            with self.loaded(each) as network:
                size = batch_that_fits(self.memory.available(self.memory.vae_device), each, len(latent))
                decoded = torch.cat([self._decode(network, part) for part in torch.split(latent, size)])
            return _picture(decoded)
        except (OutOfMemory, torch.OutOfMemoryError):
            _log.warning("Out of memory while decoding: trying again in tiles.")
        return self.decode_tiled(latent)

    def decode_tiled(
        self,
        latent: Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        tile_t: int | None = None,  # noqa: ARG002 - of video autoencoders
        overlap_t: int | None = None,  # noqa: ARG002
    ) -> Tensor:
        """The same in tiles of latent cells; the mean of three tilings."""
        kind = self.kind
        tile_x, tile_y = tile_x or DECODE_TILE, tile_y or DECODE_TILE
        overlap = DECODE_OVERLAP if overlap is None else overlap
        with self.loaded(self._decode_bytes(latent[:1, :, : 2 * tile_y, :tile_x])) as network:
            decoded = three_passes(
                latent,
                lambda part: self._decode(network, part),
                tile_x,
                tile_y,
                overlap=overlap,
                scale=kind.downscale,
                out_channels=kind.colours,
            )
        return _picture(decoded)

    def _decode(self, network: nn.Module, latent: Tensor) -> Tensor:
        if self.kind.decode is None:
            raise BadInput(f"{self.file} cannot decode.", why="It holds only the encoder's half.")
        return self.kind.decode(network, self._prepared(latent)).float().cpu()

    def _decode_bytes(self, latent: Tensor) -> int:
        pixels = latent.shape[-2] * latent.shape[-1] * self.kind.downscale**2
        return int(pixels * self.kind.decode_bytes_per_pixel * self.dtype.itemsize)

    # -- encoding -------------------------------------------------------------------------------------------------

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents of pictures. pixels: (B, H, W, 3 or more) in 0..1 → (B, C, H // downscale, W // downscale), float32.

        Sides that are no multiple of the downscale are cut about the centre.
        """
        pictures = self._signed(pixels)
        each = self._encode_bytes(pictures)
        if each > self.memory.available(self.memory.vae_device):
            _log.info("The VAE encodes %s in tiles: a whole picture needs about %d MB.", list(pixels.shape), each >> 20)
            return self.encode_tiled(pixels)
        try:
            with self.loaded(each) as network:
                size = batch_that_fits(self.memory.available(self.memory.vae_device), each, len(pictures))
                return torch.cat([self._encode(network, part) for part in torch.split(pictures, size)])
        except (OutOfMemory, torch.OutOfMemoryError):
            _log.warning("Out of memory while encoding: trying again in tiles.")
        return self.encode_tiled(pixels)

    def encode_tiled(
        self,
        pixels: Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        tile_t: int | None = None,  # noqa: ARG002 - of video autoencoders
        overlap_t: int | None = None,  # noqa: ARG002
    ) -> Tensor:
        """The same in tiles of pixels; the mean of three tilings."""
        kind, pictures = self.kind, self._signed(pixels)
        tile_x, tile_y = tile_x or ENCODE_TILE, tile_y or ENCODE_TILE
        overlap = ENCODE_OVERLAP if overlap is None else overlap
        with self.loaded(self._encode_bytes(pictures[:1, :, : 2 * tile_y, :tile_x])) as network:
            return three_passes(
                pictures,
                lambda part: self._encode(network, part),
                tile_x,
                tile_y,
                overlap=overlap,
                scale=1 / kind.downscale,
                out_channels=kind.channels,
            )

    def vae_encode_crop_pixels(self, pixels: Tensor) -> Tensor:
        """Sides cut about the centre to multiples of the downscale. pixels: (B, H, W, C)."""
        step = self.kind.downscale
        for axis in (1, 2):
            extent = pixels.shape[axis]
            if extent < step:
                raise BadInput(f"A picture of {pixels.shape[2]}×{pixels.shape[1]} pixels cannot be encoded.",
                               why=f"This VAE makes one latent cell of {step}×{step} pixels.")  # fmt: skip
            pixels = pixels.narrow(axis, extent % step // 2, extent // step * step)
        return pixels

    def _signed(self, pixels: Tensor) -> Tensor:
        """Cropped, three channels first, -1..1."""
        return self.vae_encode_crop_pixels(pixels)[..., : self.kind.colours].movedim(-1, 1) * 2 - 1

    def _encode(self, network: nn.Module, pictures: Tensor) -> Tensor:
        if self.kind.encode is None:
            raise BadInput(f"{self.file} cannot encode.", why="It holds only the decoder's half.")
        return self.kind.encode(network, self._prepared(pictures)).float().cpu()

    def _encode_bytes(self, pictures: Tensor) -> int:
        pixels = pictures.shape[-2] * pictures.shape[-1]
        return int(pixels * self.kind.encode_bytes_per_pixel * self.dtype.itemsize)

    # -- both -----------------------------------------------------------------------------------------------------

    def loaded(self, working: int = 0) -> AbstractContextManager[nn.Module]:
        """The network, on its device, for as long as the block lasts. working: bytes needed besides."""
        device = self.memory.vae_device
        return self.memory.loaded(self.source, self.memory.vae_precision().storage, device=device, working=working)

    def _prepared(self, tensor: Tensor) -> Tensor:
        device = self.memory.vae_device
        placed = self.memory.place(tensor.to(self.dtype), device)
        return placed.contiguous(memory_format=torch.channels_last) if self.memory.channels_last(device) else placed


def _picture(decoded: Tensor) -> Tensor:
    """(B, C, H, W) in -1..1 → (B, H, W, C) in 0..1."""
    return decoded.add_(1).div_(2).clamp_(0, 1).movedim(1, -1)
