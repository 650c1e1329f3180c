"""Pictures from and to files: loading with alpha as a mask, saving with the prompt inside."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from PIL import Image as Picture
from PIL import ImageFile, ImageOps, ImageSequence
from torch import Tensor

from limner.errors import BadInput
from limner.graph import Choice, FileIn, Image, Int, Kind, Mask, Run, Ui, node
from limner.nodes.saving import Extra, Prompt, carried, pixel_bytes, save_files, temp_prefix
from limner.store.media import encode_png, open_image

_log = logging.getLogger(__name__)

Upload = Annotated[str, FileIn("input", upload=True)]
AnyUpload = Annotated[str, FileIn("input", upload=True, suffixes=("",))]
"""Offers every file, as saved workflows expect of masks."""
Pixels = Annotated[int, Int(min=0, max=16384, step=1)]
Channel = Annotated[str, Choice(("alpha", "red", "green", "blue"))]
SAVED, PREVIEWED = 4, 1
"""PNG compression of results and of previews."""
_TOLERANT = threading.Lock()


class Loaded(NamedTuple):
    """A picture (B, H, W, 3), and how transparent it is, (B, H, W); without alpha a blank (B, 64, 64)."""

    IMAGE: Image
    MASK: Mask


@node("LoadImage", category="image", title="Load Image")
def load_image(run: Run, image: Upload) -> Loaded:
    """A picture of the input folder, upright, with its frames as a batch; the mask is 1 where it is transparent.

    image: the file.
    """
    path = run.store.files.existing(image)
    frames = [_as_tensors(frame) for frame in _read(path)]
    same = [frame for frame in frames if frame[0].shape == frames[0][0].shape]
    pictures, masks = zip(*same, strict=True)
    return Loaded(torch.cat(pictures), torch.cat(masks))


@load_image.changes_when
def _image_digest(run: Run, image: str) -> str:
    digest: str = run.store.files.digest(run.store.files.existing(image))
    return digest


@node("LoadImageMask", category="mask", title="Load Image (as Mask)")
def load_mask(run: Run, image: AnyUpload, channel: Channel) -> Mask:
    """One channel of a picture as a mask; alpha is inverted, so that 1 is transparent.

    image: the file.
    """
    frame = _to_8_bits(_read(run.store.files.existing(image))[0])
    band = frame.convert("RGBA").getchannel(channel[0].upper())
    values = _floats(band)[None]
    return 1.0 - values if channel == "alpha" else values


@load_mask.changes_when
def _mask_digest(run: Run, image: str, channel: str) -> str:
    return _image_digest(run, image) + channel


OUTPUTS = {
    "image_upload": True,
    "image_folder": "output",
    "remote": {"route": "/internal/files/output", "refresh_button": True, "control_after_refresh": "first"},
}
"""The list of results is asked for when it is opened."""


@node("LoadImageOutput", category="image", title="Load Image (from Outputs)", experimental=True)
def load_output(run: Run, image: Annotated[str, Kind("COMBO", OUTPUTS)]) -> Loaded:
    """A picture of the output folder, as Load Image has it.

    image: the file, such as `fox.png [output]`.
    """
    return load_image(run, image)


@load_output.changes_when
def _output_digest(run: Run, image: str) -> str:
    return _image_digest(run, image)


@node("WebcamCapture", category="image", title="Webcam Capture", python_module="comfy_extras.nodes_webcam")
def webcam(
    run: Run,
    image: Annotated[str, Kind("WEBCAM")],
    width: Pixels = 0,  # noqa: ARG001
    height: Pixels = 0,  # noqa: ARG001
    capture_on_queue: bool = True,  # noqa: ARG001 - the browser's
) -> Image:
    """What the browser's camera saw.

    image: the file that the browser sent.
    """
    return load_image(run, image).IMAGE


@webcam.changes_when
def _webcam_digest(run: Run, image: str, width: int, height: int, capture_on_queue: bool) -> str:  # noqa: ARG001
    return _image_digest(run, image)


def read_picture(path: Path) -> Tensor:
    """The first frame of a file, (1, H, W, 3)."""
    return _as_tensors(_read(path)[0])[0]


def _read(path: Path) -> list[Picture.Image]:
    """The frames of a picture, upright; of stereo photographs (MPO) the first.

    A cut-off file is read as far as it goes.
    """
    try:
        return _frames(path)
    except BadInput as error:
        if "truncated" not in str(error.__cause__):
            raise
        _log.warning("%s is cut off; what is missing stays blank.", path.name)
    with _tolerance():
        return _frames(path)


def _frames(path: Path) -> list[Picture.Image]:
    with open_image(path) as picture:
        try:
            frames = [ImageOps.exif_transpose(frame).copy() for frame in ImageSequence.Iterator(picture)]
        except Exception as error:  # decoders of damaged frames raise whatever they stumble over
            raise BadInput(f"A frame of {path.name} cannot be read: {error}.", do="Save the picture again.") from error
        return frames[:1] if picture.format == "MPO" else frames


@contextmanager
def _tolerance() -> Iterator[None]:
    """Pillow's switch for cut-off files is one for the process; it is thrown for one file at a time."""
    with _TOLERANT:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _to_8_bits(frame: Picture.Image) -> Picture.Image:
    """Greys of 16 or 32 bits scaled to 8; anything else as it is."""
    if frame.mode.startswith("I"):
        return frame.convert("I").point(lambda value: value * (1 / 255))
    return frame


def _as_tensors(frame: Picture.Image) -> tuple[Tensor, Tensor]:
    frame = _to_8_bits(frame)
    pixels = _floats(frame.convert("RGB"))[None]
    if "A" in frame.getbands():
        return pixels, 1.0 - _floats(frame.getchannel("A"))[None]
    if frame.mode == "P" and "transparency" in frame.info:
        return pixels, 1.0 - _floats(frame.convert("RGBA").getchannel("A"))[None]
    return pixels, torch.zeros(1, 64, 64)


def _floats(frame: Picture.Image) -> Tensor:
    return torch.from_numpy(np.array(frame).astype(np.float32) / 255.0)


@node("SaveImage", category="image", title="Save Image", output_node=True)
def save_image(
    run: Run, images: Image, filename_prefix: str = "ComfyUI", prompt: Prompt = None, extra_pnginfo: Extra = None
) -> Ui:
    """Pictures as PNG in the output folder, with prompt and workflow inside.

    images: the pictures.
    filename_prefix: folders and the start of the name; may hold %width%, %height%, %year% and so on, %batch_num%.
    """
    return _save(run, images, "output", filename_prefix, compress=SAVED, texts=carried(run, prompt, extra_pnginfo))


@node("PreviewImage", category="image", title="Preview Image", output_node=True)
def preview_image(run: Run, images: Image, prompt: Prompt = None, extra_pnginfo: Extra = None) -> Ui:
    """Pictures shown but not kept: they go to the temp folder."""
    return _save(run, images, "temp", temp_prefix(), compress=PREVIEWED, texts=carried(run, prompt, extra_pnginfo))


@node(
    "MaskPreview",
    category="mask",
    title="MaskPreview",
    python_module="comfy_extras.nodes_mask",
    output_node=True,
)
def preview_mask(run: Run, mask: Mask, prompt: Prompt = None, extra_pnginfo: Extra = None) -> Ui:
    """A mask shown as a grey picture but not kept."""
    grey = mask.reshape(-1, *mask.shape[-2:], 1).expand(-1, -1, -1, 3)
    return _save(run, grey, "temp", temp_prefix(), compress=SAVED, texts=carried(run, prompt, extra_pnginfo))


@node(
    "SaveImageWebsocket",
    category="api/image",
    title="SaveImageWebsocket",
    python_module="custom_nodes.websocket_image_save",
    output_node=True,
)
def send(run: Run, images: Image) -> Ui:
    """Pictures as PNG over the client's socket, as previews in full size; nothing is written."""
    for index, image in enumerate(images):
        run.progress(index, len(images), ("PNG", Picture.fromarray(pixel_bytes(image)), None))
    return Ui({})


@send.changes_when
def _always(images: object) -> int:  # noqa: ARG001 - whoever asks again wants them sent again
    return time.time_ns()


def _save(run: Run, images: Tensor, kind: str, prefix: str, *, compress: int, texts: dict[str, str]) -> Ui:
    """texts: what is written into the files."""
    height, width = images.shape[1:3]
    files = (encode_png(pixel_bytes(image), texts, compress) for image in images)
    return Ui({"images": save_files(run, kind, prefix, "png", files, (width, height))})
