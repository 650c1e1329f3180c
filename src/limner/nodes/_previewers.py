"""Previewers as objects: what turns a predicted latent into a picture while it is sampled. (No nodes here.)

Node packs replace `get_previewer` and the classes, so they are looked up here by name each time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from PIL.Image import Image as Picture
from torch import Tensor

from limner.errors import LimnerError
from limner.graph import CURRENT_RUN, Run
from limner.models.vae.taesd import TAESDConfig, TinyDecoder
from limner.sampling.latent import LatentFormat
from limner.sampling.previews import Decoder, latent_to_rgb, preview_factors, to_picture
from limner.weights import CheckpointHeader, NetworkSource

_log = logging.getLogger(__name__)

MAX_PREVIEW_RESOLUTION = 512
Preview = tuple[str, Picture, int]
"""Format, picture and its largest side in pixels."""


class LatentPreviewer:
    """Turns a latent (B, C, [T,] h, w) into a picture of its first element."""

    def decode_latent_to_preview(self, x0: Tensor) -> Picture:
        """The picture."""
        raise NotImplementedError

    def decode_latent_to_preview_image(self, preview_format: str, x0: Tensor) -> Preview:
        """The picture with the format it is to be sent in."""
        return preview_format, self.decode_latent_to_preview(x0), MAX_PREVIEW_RESOLUTION


class Latent2RGBPreviewer(LatentPreviewer):
    """A linear map of the channels. latent_rgb_factors: (channels, 3); latent_rgb_factors_bias: 3 values."""

    def __init__(
        self,
        latent_rgb_factors: Sequence[Sequence[float]],
        latent_rgb_factors_bias: Sequence[float] | None = None,
        latent_rgb_factors_reshape: Any = None,
    ) -> None:
        self.latent_rgb_factors = torch.tensor(latent_rgb_factors, device="cpu").transpose(0, 1)
        self.latent_rgb_factors_bias = torch.tensor(list(latent_rgb_factors_bias or (0.0, 0.0, 0.0)), device="cpu")
        self.latent_rgb_factors_reshape = latent_rgb_factors_reshape

    def decode_latent_to_preview(self, x0: Tensor) -> Picture:
        """The picture."""
        factors = self.latent_rgb_factors.transpose(0, 1).float()
        return to_picture(
            latent_to_rgb(x0, factors, self.latent_rgb_factors_bias, bool(self.latent_rgb_factors_reshape))
        )


class TAESDPreviewerImpl(LatentPreviewer):
    """A small autoencoder. taesd: an object with `decode`, or a function: latent → pixels (B, 3, H, W) in -1..1."""

    def __init__(self, taesd: Any) -> None:
        self.taesd = taesd

    def decode_latent_to_preview(self, x0: Tensor) -> Picture:
        """The picture."""
        first = x0[:1, :, 0] if x0.ndim == 5 else x0[:1]
        decode: Callable[[Tensor], Tensor] = getattr(self.taesd, "decode", self.taesd)
        return to_picture(decode(first)[0])


def preview_to_image(latent_image: Tensor) -> Picture:
    """Pixels (height, width, 3) in -1..1 as a picture."""
    return to_picture(latent_image.movedim(-1, 0))


def chosen_method(run: Run) -> str:
    """How previews are made: none, auto, latent2rgb or taesd. Node packs choose another while the program runs."""
    method: str = run.settings.preview_method
    return method


def get_previewer(device: Any, latent_format: LatentFormat) -> LatentPreviewer | None:
    """The previewer that the settings ask for, None for none or when there is none for this kind of latent."""
    del device  # the memory manager places the decoder
    run = CURRENT_RUN.get()
    method = "none" if run is None else chosen_method(run)
    if run is None or method == "none":
        return None
    decoder = tiny_decoder(run, latent_format.taesd) if method == "taesd" else None
    if decoder is not None:
        return TAESDPreviewerImpl(decoder)
    factors = preview_factors(latent_format)
    return None if factors is None else Latent2RGBPreviewer(*factors)


def prepare_callback(
    model: Any, steps: int, x0_output_dict: dict[str, Any] | None = None
) -> Callable[[int, Tensor, Tensor, int], None]:
    """What a sampling calls at each step: reports progress, with a preview, and keeps the prediction.

    model: what is sampled, with `load_device` and `model.latent_format`.
    """
    run = CURRENT_RUN.get()
    inner = getattr(model, "model", model)
    latent_format = getattr(inner, "latent_format", None) or model.latent_format
    previewer = get_previewer(getattr(model, "load_device", None), latent_format)

    def callback(step: int, x0: Tensor, x: Tensor, total_steps: int) -> None:  # noqa: ARG001 - the sampling's form
        if x0_output_dict is not None:
            x0_output_dict["x0"] = x0
        preview = previewer.decode_latent_to_preview_image("JPEG", x0) if previewer is not None else None
        report(run, step + 1, total_steps or steps, preview)

    return callback


def report(run: Run | None, value: int, total: int, preview: Any) -> None:
    """Report progress with a preview: a picture, or a tuple (format, picture, largest side)."""
    if run is not None:
        run.progress(value, total, preview[1] if isinstance(preview, tuple) else preview)


def tiny_decoder(run: Run, name: str | None) -> Decoder | None:
    """The decoder for previews whose file in `vae_approx` begins with this name; None, and a warning, without one."""
    files = run.store.folders.list("vae_approx")
    file = next((file for file in files if name is not None and file.startswith(name)), None)
    if file is None:
        _log.warning("There is no %s in vae_approx; previews are made from the latent directly.", name or "TAESD")
        return None
    try:
        header = CheckpointHeader.read(run.store.folders.path("vae_approx", file))
        config = TAESDConfig.from_state({f"taesd_decoder.{key}": size for key, size in header.shapes().items()}, {})
    except LimnerError as error:
        _log.warning("%s makes no previews: %s", file, error)
        return None
    source = NetworkSource("TAESD decoder", partial(TinyDecoder, config), header.tensors, header.identity)
    memory = run.memory
    precision = memory.vae_precision()

    def decode(latent: Tensor) -> Tensor:
        with memory.loaded(source, precision.storage, device=memory.vae_device, passes=1) as network:
            pixels: Tensor = network(memory.place(latent.to(precision.compute), memory.vae_device))
        return (pixels - 0.5) * 2

    return decode
