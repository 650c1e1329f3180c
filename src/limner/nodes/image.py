"""Pictures: resized, cut, joined, turned."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from limner.graph import Choice, Float, Image, Int, Mask, node
from limner.nodes.composite import composite, same_channels, with_alpha
from limner.nodes.latent import Crop, Flip, Rotation, quarter_turns
from limner.nodes.resize import resize_image

Method = Annotated[str, Choice(("nearest-exact", "bilinear", "area", "bicubic", "lanczos"))]
NewSide = Annotated[int, Int(min=0, max=16384, step=1)]
Side = Annotated[int, Int(min=1, max=16384, step=1)]
Place = Annotated[int, Int(min=0, max=16384, step=1)]
BatchSize = Annotated[int, Int(min=1, max=4096)]

extra_image = partial(node, python_module="comfy_extras.nodes_images")


@node("EmptyImage", category="image", title="EmptyImage")
def empty(
    width: Side = 512,
    height: Side = 512,
    batch_size: BatchSize = 1,
    color: Annotated[int, Int(min=0, max=0xFFFFFF, step=1, extra={"display": "color"})] = 0,
) -> Image:
    """Pictures of one colour, 0xRRGGBB."""
    rgb = torch.tensor([color >> 16 & 0xFF, color >> 8 & 0xFF, color & 0xFF], dtype=torch.float32) / 0xFF
    return rgb.expand(batch_size, height, width, 3).clone()


@node("ImageScale", category="image/upscaling", title="Upscale Image")
def scale(image: Image, upscale_method: Method, width: NewSide = 512, height: NewSide = 512, *, crop: Crop) -> Image:
    """A picture in another size; a side of 0 follows the other, both 0 change nothing."""
    if width == 0 and height == 0:
        return image
    old_height, old_width = image.shape[1:3]
    if width == 0:
        width = max(1, round(old_width * height / old_height))
    elif height == 0:
        height = max(1, round(old_height * width / old_width))
    return resize_image(image, width, height, upscale_method, crop)


@node("ImageScaleBy", category="image/upscaling", title="Upscale Image By")
def scale_by(
    image: Image, upscale_method: Method, scale_by: Annotated[float, Float(min=0.01, max=8.0, step=0.01)] = 1.0
) -> Image:
    """A picture resized by a factor."""
    return _scaled(image, upscale_method, scale_by)


@node(
    "ImageScaleToTotalPixels",
    category="image/upscaling",
    title="",
    python_module="comfy_extras.nodes_post_processing",
    style="v3",
)
def scale_to_total_pixels(
    image: Image, upscale_method: Method, megapixels: Annotated[float, Float(min=0.01, max=16.0, step=0.01)] = 1.0
) -> Image:
    """A picture resized to so many pixels, its shape kept.

    image: the picture.
    upscale_method: how.
    megapixels: how many times 1024 × 1024.
    """
    total = int(megapixels * 1024 * 1024)
    return _scaled(image, upscale_method, math.sqrt(total / (image.shape[1] * image.shape[2])))


def _scaled(image: Tensor, method: str, factor: float) -> Tensor:
    height, width = (round(side * factor) for side in image.shape[1:3])
    return resize_image(image, width, height, method)


@node("ImageInvert", category="image", title="Invert Image")
def invert(image: Image) -> Image:
    """The negative of a picture, of its alpha too."""
    return 1.0 - image


@node("ImageBatch", category="image", title="Batch Images")
def batch(image1: Image, image2: Image) -> Image:
    """Two batches as one; the second is resized to the first, and alpha 1 added to whichever has none."""
    first, second = image1, image2
    if first.shape[-1] < second.shape[-1]:
        first = with_alpha(first)
    elif second.shape[-1] < first.shape[-1]:
        second = with_alpha(second)
    if first.shape[1:] != second.shape[1:]:
        second = resize_image(second, first.shape[2], first.shape[1], "bilinear", "center")
    return torch.cat((first, second))


@extra_image("ImageFromBatch", category="image/batch", title="ImageFromBatch")
def from_batch(image: Image, batch_index: Annotated[int, Int(min=0, max=4095)] = 0, length: BatchSize = 1) -> Image:
    """Some pictures of a batch."""
    start = min(len(image) - 1, batch_index)
    return image[start : start + min(len(image) - start, length)].clone()


@extra_image("RepeatImageBatch", category="image/batch", title="RepeatImageBatch")
def repeat(image: Image, amount: BatchSize = 1) -> Image:
    """The whole batch several times over."""
    return image.repeat(amount, 1, 1, 1)


@extra_image("ImageCrop", category="image/transform", title="Image Crop")
def crop(image: Image, width: Side = 512, height: Side = 512, x: Place = 0, y: Place = 0) -> Image:
    """A part of a picture; smaller where it reaches over the edge."""
    x, y = min(x, image.shape[2] - 1), min(y, image.shape[1] - 1)
    return image[:, y : y + height, x : x + width, :]


@extra_image("ImageRotate", category="image/transform", title="ImageRotate")
def rotate(image: Image, rotation: Rotation) -> Image:
    """A picture turned clockwise."""
    return torch.rot90(image, k=quarter_turns(rotation), dims=(2, 1))


@extra_image("ImageFlip", category="image/transform", title="ImageFlip")
def flip(image: Image, flip_method: Flip) -> Image:
    """A picture mirrored: the x-axis swaps top and bottom, the y-axis left and right."""
    return torch.flip(image, dims=(1 if flip_method.startswith("x") else 2,))


@node("ImageCompositeMasked", category="image", title="ImageCompositeMasked", python_module="comfy_extras.nodes_mask")
def composite_masked(
    destination: Image,
    source: Image,
    x: Place = 0,
    y: Place = 0,
    resize_source: bool = False,
    *,
    mask: Mask | None = None,
) -> Image:
    """One picture laid over another at a place, where the mask is 1; the channels are those of the destination."""
    under, over = destination.movedim(-1, 1), same_channels(destination, source).movedim(-1, 1)
    return composite(under, over, (x, y), mask, unit=1, resize_source=resize_source).movedim(1, -1)
