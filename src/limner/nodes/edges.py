"""Edges of pictures.  Canny 1986, "A computational approach to edge detection"."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from limner.errors import BadInput
from limner.graph import Float, Image, node

Threshold = Annotated[float, Float(min=0.01, max=0.99, step=0.01)]
_NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
"""Row and column of the neighbour in each eighth of the circle, clockwise from the right."""


@node("Canny", category="image/preprocessors", title="", python_module="comfy_extras.nodes_canny", style="v3")
def canny(image: Image, low_threshold: Threshold = 0.4, high_threshold: Threshold = 0.8) -> Image:
    """White lines where a picture changes sharply, one pixel wide.

    image: the picture.
    low_threshold: how sharp a line must be where it goes on from a sharper part.
    high_threshold: how sharp a line must be somewhere.
    """
    if image.shape[-1] < 3:
        raise BadInput(f"Canny needs colours; the picture has {image.shape[-1]} channels.")
    if min(image.shape[1:3]) < 3:
        raise BadInput(f"Canny needs 3 pixels a side; the picture is {image.shape[2]}×{image.shape[1]}.")
    grey = image[..., :3].float() @ image.new_tensor([0.299, 0.587, 0.114]).float()
    strength = _ridges(*_gradient(_smoothed(grey[:, None])))[:, 0]
    lines = [_connected(one, low_threshold, high_threshold) for one in strength.cpu()]
    return torch.stack(lines)[..., None].expand(-1, -1, -1, 3).to(image)


def _smoothed(x: Tensor) -> Tensor:
    """x: (B, 1, H, W), with a 5 × 5 Gaussian of sigma 1 pixel."""
    axis = torch.exp(-((torch.arange(5, device=x.device) - 2.0) ** 2) / 2)
    axis = axis / axis.sum()
    padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
    return F.conv2d(padded, (axis[:, None] * axis[None, :])[None, None].to(x))


def _gradient(x: Tensor) -> tuple[Tensor, Tensor]:
    """Length of Sobel's gradient, and its direction in eighths of the circle, 0..7."""
    sobel = x.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across, down = F.conv2d(padded, sobel[None, None]), F.conv2d(padded, sobel.T[None, None])
    length = torch.sqrt(across**2 + down**2 + 1e-6)
    return length, torch.round(torch.atan2(down, across) / (torch.pi / 4)).long() % 8


def _ridges(length: Tensor, eighth: Tensor) -> Tensor:
    """The length where it is greater than both neighbours along the gradient, else 0."""
    height, width = length.shape[-2:]
    padded = F.pad(length, (1, 1, 1, 1))
    around = [padded[..., 1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in _NEIGHBOURS]
    beside = torch.cat(around, dim=1)
    ahead, behind = beside.gather(1, eighth), beside.gather(1, (eighth + 4) % 8)
    return torch.where((length > ahead) & (length > behind), length, 0.0)


def _connected(strength: Tensor, low: float, high: float) -> Tensor:
    """1 for what is above `low` and connected, diagonally too, with something above `high`. strength: (H, W)."""
    values = strength.numpy()
    labels, count = ndimage.label(values > low, structure=np.ones((3, 3)))
    strong = np.zeros(count + 1, bool)
    strong[labels[(values > high) & (values > low)]] = True
    strong[0] = False
    return torch.from_numpy(strong[labels].astype(np.float32))
