"""Pictures eroded and dilated, and split into brightness and colour."""

from __future__ import annotations

from functools import partial
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.graph import Choice, Image, Int, node

Operation = Annotated[str, Choice(("erode", "dilate", "open", "close", "gradient", "bottom_hat", "top_hat"))]

morphological = partial(node, python_module="comfy_extras.nodes_morphology", style="v3")


class Parts(NamedTuple):
    """Brightness and two differences of colour, each as a grey picture."""

    Y: Image
    U: Image
    V: Image


@morphological("Morphology", category="image/postprocessing", title="ImageMorphology")
def morphology(
    image: Image, operation: Operation, kernel_size: Annotated[int, Int(min=3, max=999, step=1)] = 3
) -> Image:
    """Bright parts of a picture shrunk or grown, channel by channel.

    image: the picture.
    operation: open is erode, then dilate; close the other way round; gradient is what differs between the two; the
        hats are what open or close took away.
    kernel_size: side of the square in which the darkest or brightest is looked for.
    """
    if operation == "erode":
        return _erode(image, kernel_size)
    if operation == "dilate":
        return _dilate(image, kernel_size)
    if operation == "gradient":
        return _dilate(image, kernel_size) - _erode(image, kernel_size)
    opened_first = operation in {"open", "top_hat"}
    first, second = (_erode, _dilate) if opened_first else (_dilate, _erode)
    result = second(first(image, kernel_size), kernel_size)
    if operation in {"open", "close"}:
        return result
    return image - result if opened_first else result - image


def _dilate(image: Tensor, size: int) -> Tensor:
    """The largest value in a square around each pixel of (B, H, W, C); what lies outside never is."""
    for axis in (1, 2):
        image = _largest(image.transpose(axis, -1), size).transpose(axis, -1)
    return image


def _erode(image: Tensor, size: int) -> Tensor:
    return -_dilate(-image, size)


def _largest(x: Tensor, size: int) -> Tensor:
    """The largest of `size` neighbours along the last axis, in log2(size) steps: windows double, the last overlaps."""
    length, reach = x.shape[-1], 1
    x = F.pad(x, (size // 2, size - 1 - size // 2), value=-torch.inf)
    while reach * 2 <= size:
        x = torch.maximum(x[..., :-reach], x[..., reach:])
        reach *= 2
    rest = size - reach
    return torch.maximum(x[..., :length], x[..., rest : rest + length])


@morphological("ImageRGBToYUV", category="image/batch", title="")
def to_yuv(image: Image) -> Parts:
    """Brightness, and how much bluer and redder a picture is.

    image: the picture.
    """
    red, green, blue = image[..., 0:1], image[..., 1:2], image[..., 2:3]
    brightness = 0.299 * red + 0.587 * green + 0.114 * blue
    parts = (brightness, (blue - brightness) * 0.564 + 0.5, (red - brightness) * 0.713 + 0.5)
    return Parts(*(part.expand(-1, -1, -1, 3) for part in parts))


@morphological("ImageYUVToRGB", category="image/batch", title="")
def from_yuv(Y: Image, U: Image, V: Image) -> Image:  # noqa: N803 - names of the wire
    """A picture of brightness and two differences of colour, each the mean of its channels.

    Y: brightness.
    U: how much bluer.
    V: how much redder.
    """
    y, u, v = (part.mean(-1, keepdim=True) for part in (Y, U, V))
    u, v = u - 0.5, v - 0.5
    return torch.cat((y + 1.403 * v, y - 0.714 * v - 0.344 * u, y + 1.773 * u), dim=-1).clamp(0, 1)
