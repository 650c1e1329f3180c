"""Pictures in their frames: stitched, padded, measured, fitted to a size, regrouped."""

from __future__ import annotations

from functools import partial
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.errors import BadInput
from limner.graph import Bool, Choice, Hidden, Image, Int, Run, node
from limner.nodes.composite import with_alpha
from limner.nodes.resize import resize_image

Direction = Annotated[str, Choice(("right", "down", "left", "up"))]
Colour = Annotated[str, Choice(("white", "black", "red", "green", "blue"))]
Method = Annotated[str, Choice(("area", "lanczos", "bilinear", "nearest-exact", "bilinear", "bicubic"))]
Fill = Annotated[str, Choice(("white", "black"))]
Filter = Annotated[str, Choice(("area", "bicubic", "nearest-exact", "bilinear", "lanczos"))]
Side = Annotated[int, Int(min=1, max=16384, step=1)]

layout = partial(node, python_module="comfy_extras.nodes_images")

COLOURS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "red": (1.0, 0.0, 0.0)}
COLOURS |= {"green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}

KONTEXT_SIZES = (
    *((672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104)),
    (1024, 1024),
    *((1104, 944), (1184, 880), (1248, 832), (1328, 800), (1392, 752), (1456, 720), (1504, 688), (1568, 672)),
)
"""The sizes (width, height) that Flux Kontext was trained on."""


class Size(NamedTuple):
    """What a batch of pictures measures."""

    width: int
    height: int
    batch_size: int


@layout("ImageStitch", category="image/transform", title="Image Stitch")
def stitch(
    image1: Image,
    direction: Direction = "right",
    match_image_size: Annotated[bool, Bool()] = True,
    spacing_width: Annotated[int, Int(min=0, max=1024, step=2)] = 0,
    spacing_color: Colour = "white",
    *,
    image2: Image | None = None,
) -> Image:
    """Two pictures side by side, or one above the other; the shorter batch goes on with its last picture."""
    if image2 is None:
        return image1
    length = max(len(image1), len(image2))
    first, second = _lengthened(image1, length), _lengthened(image2, length)
    across = direction in {"left", "right"}
    if match_image_size:
        second = _matched(second, first, across)
    else:
        first, second = _padded_alike(first, second, 1 if across else 2, spacing_color)
    channels = max(first.shape[-1], second.shape[-1])
    first, second = _with_channels(first, channels), _with_channels(second, channels)
    parts = [first, second] if direction in {"right", "down"} else [second, first]
    if spacing_width > 0:
        parts.insert(1, _spacer(first, spacing_width + spacing_width % 2, across, spacing_color))
    return torch.cat(parts, dim=2 if across else 1)


def _lengthened(image: Tensor, length: int) -> Tensor:
    return torch.cat((image, image[-1:].expand(length - len(image), -1, -1, -1)))


def _matched(second: Tensor, first: Tensor, across: bool) -> Tensor:
    """The second picture with the height of the first, or its width, and its own shape."""
    (h1, w1), (h2, w2) = first.shape[1:3], second.shape[1:3]
    width, height = (h1 * w2 // h2, h1) if across else (w1, w1 * h2 // w2)
    return resize_image(second, max(1, width), max(1, height), "lanczos").to(first)


def _padded_alike(first: Tensor, second: Tensor, axis: int, colour: str) -> tuple[Tensor, Tensor]:
    """Both with the longer side of the two along an axis, each in its middle."""
    size = max(first.shape[axis], second.shape[axis])
    value = 1.0 if colour == "white" else 0.0
    padded = []
    for image in (first, second):
        missing = size - image.shape[axis]
        ends = (missing // 2, missing - missing // 2)
        padding = (0, 0, 0, 0, *ends) if axis == 1 else (0, 0, *ends)
        padded.append(F.pad(image, padding, value=value))
    return padded[0], padded[1]


def _with_channels(image: Tensor, channels: int) -> Tensor:
    while image.shape[-1] < channels:
        image = with_alpha(image)
    return image


def _spacer(like: Tensor, width: int, across: bool, colour: str) -> Tensor:
    batch, height, length, channels = like.shape
    shape = (batch, height, width, channels) if across else (batch, width, length, channels)
    spacer = like.new_ones(shape)
    shown = min(3, channels)
    spacer[..., :shown] = like.new_tensor(COLOURS[colour][:shown])
    return spacer


@layout("ResizeAndPadImage", category="image/transform", title="ResizeAndPadImage")
def resize_and_pad(
    image: Image, target_width: Side = 512, target_height: Side = 512, *, padding_color: Fill, interpolation: Filter
) -> Image:
    """The whole picture within a size, its shape kept, the rest filled."""
    batch, height, width, channels = image.shape
    factor = min(target_width / width, target_height / height)
    new_width, new_height = max(1, int(width * factor)), max(1, int(height * factor))
    left, top = (target_width - new_width) // 2, (target_height - new_height) // 2
    canvas = image.new_full((batch, target_height, target_width, channels), 1.0 if padding_color == "white" else 0.0)
    resized = resize_image(image, new_width, new_height, interpolation)
    canvas[:, top : top + new_height, left : left + new_width] = resized
    return canvas


@layout("GetImageSize", category="image", title="Get Image Size")
def size(run: Run, image: Image, unique_id: Annotated[str | None, Hidden("UNIQUE_ID")] = None) -> Size:  # noqa: ARG001
    """Width and height in pixels, and how many pictures the batch holds; the node shows them too."""
    measured = Size(image.shape[2], image.shape[1], image.shape[0])
    run.tell(f"width: {measured.width}, height: {measured.height}\n batch size: {measured.batch_size}")
    return measured


@layout("ImageScaleToMaxDimension", category="image/upscaling", title="ImageScaleToMaxDimension")
def scale_to_longest(
    image: Image, upscale_method: Method, largest_size: Annotated[int, Int(min=0, max=16384, step=1)] = 512
) -> Image:
    """A picture whose longer side has so many pixels, its shape kept; 0 changes nothing."""
    height, width = image.shape[1:3]
    longest = max(height, width)
    if largest_size == 0:
        return image
    new_width, new_height = (max(1, round(side / longest * largest_size)) for side in (width, height))
    return resize_image(image, new_width, new_height, upscale_method)


@node(
    "FluxKontextImageScale",
    category="advanced/conditioning/flux",
    title="",
    python_module="comfy_extras.nodes_flux",
    style="v3",
)
def scale_for_kontext(image: Image) -> Image:
    """A picture in the size, of those that Flux Kontext knows, whose shape is nearest; what does not fit is cut.

    image: the picture.
    """
    shape = image.shape[2] / image.shape[1]
    width, height = min(KONTEXT_SIZES, key=lambda size: (abs(shape - size[0] / size[1]), size[0]))
    return resize_image(image, width, height, "lanczos", "center")


@node(
    "RebatchImages",
    category="image/batch",
    title="Rebatch Images",
    python_module="comfy_extras.nodes_rebatch",
    style="v3",
    input_is_list=True,
)
def rebatch(images: Image, batch_size: Annotated[int, Int(min=1, max=4096)] = 1) -> list[Image]:
    """Pictures of several batches in new batches of so many; the last may be shorter.

    images: the batches.
    batch_size: pictures a batch; those of one batch must be of one size.
    """
    single = [one for batch in images for one in batch.split(1)]
    length = batch_size[0] if isinstance(batch_size, list) else batch_size
    runs = [single[start : start + length] for start in range(0, len(single), length)]
    for run in runs:
        if len({one.shape for one in run}) > 1:
            sizes = ", ".join(sorted({f"{one.shape[2]}×{one.shape[1]}×{one.shape[3]}" for one in run}))
            raise BadInput(
                f"Pictures of several sizes cannot be one batch: {sizes}.", do="Resize them, or take 1 a batch."
            )
    return [torch.cat(run) for run in runs]
