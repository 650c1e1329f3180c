"""Pictures after the fact: blended, blurred, sharpened, reduced to few colours, made noisy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image as Picture
from torch import Tensor
from torch.nn import functional as F

from limner.errors import BadInput
from limner.graph import Choice, Float, Image, Int, node
from limner.nodes.composite import same_channels
from limner.nodes.resize import resize_image

Blend = Annotated[str, Choice(("normal", "multiply", "screen", "overlay", "soft_light", "difference"))]
Dither = Annotated[str, Choice(("none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16"))]
Radius = Annotated[int, Int(min=1, max=31, step=1)]
Fraction = Annotated[float, Float(min=0.0, max=1.0, step=0.01)]
Seed = Annotated[int, Int(min=0, max=2**64 - 1, control_after_generate=True)]

effect = partial(
    node,
    category="image/postprocessing",
    title="",
    python_module="comfy_extras.nodes_post_processing",
    style="v3",
)


@effect("ImageBlend")
def blend(image1: Image, image2: Image, blend_factor: Fraction = 0.5, *, blend_mode: Blend) -> Image:
    """Two pictures mixed; a factor of 1 is all of the blend, 0 all of the first.

    image1: the picture below.
    image2: the picture above, brought to the size of the first.
    blend_factor: how much of the blend.
    blend_mode: how the two are blended.
    """
    above = same_channels(image1, image2).to(image1)
    if above.shape[1:3] != image1.shape[1:3]:
        above = resize_image(above, image1.shape[2], image1.shape[1], "bicubic", "center")
    mixed = _BLENDS[blend_mode](image1, above)
    return (image1 * (1 - blend_factor) + mixed * blend_factor).clamp(0, 1)


def _overlay(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a <= 0.5, 2 * a * b, 1 - 2 * (1 - a) * (1 - b))


def _soft_light(a: Tensor, b: Tensor) -> Tensor:
    lit = torch.where(a <= 0.25, ((16 * a - 12) * a + 4) * a, a.clamp(min=0).sqrt())
    return torch.where(b <= 0.5, a - (1 - 2 * b) * a * (1 - a), a + (2 * b - 1) * (lit - a))


_BLENDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "normal": lambda _, b: b,
    "multiply": lambda a, b: a * b,
    "screen": lambda a, b: 1 - (1 - a) * (1 - b),
    "overlay": _overlay,
    "soft_light": _soft_light,
    "difference": lambda a, b: a - b,
}


def gaussian(size: int, sigma: float) -> Tensor:
    """A (size, size) kernel of sum 1; sigma is in units of its radius, not in pixels."""
    axis = torch.linspace(-1, 1, size)
    kernel = torch.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / (2 * sigma**2))
    return kernel / kernel.sum()


def _convolved(image: Tensor, kernel: Tensor) -> Tensor:
    """Each channel of (B, H, W, C) with a square kernel; mirrored at the edges, without the edge itself."""
    radius, channels = len(kernel) // 2, image.shape[-1]
    if radius >= min(image.shape[1:3]):
        raise BadInput(
            f"A radius of {radius} is too large for a picture of {image.shape[2]}×{image.shape[1]}.",
            do="Choose a radius smaller than its shorter side.",
        )
    weights = kernel.to(image).expand(channels, 1, -1, -1)
    padded = F.pad(image.movedim(-1, 1), (radius,) * 4, mode="reflect")
    return F.conv2d(padded, weights, groups=channels).movedim(1, -1)


@effect("ImageBlur")
def blur(
    image: Image, blur_radius: Radius = 1, sigma: Annotated[float, Float(min=0.1, max=10.0, step=0.1)] = 1.0
) -> Image:
    """A picture blurred, its alpha too.

    image: the picture; its sides must be longer than the radius.
    blur_radius: how far, in pixels.
    sigma: how evenly within the radius.
    """
    return _convolved(image, gaussian(2 * blur_radius + 1, sigma))


@effect("ImageSharpen")
def sharpen(
    image: Image,
    sharpen_radius: Radius = 1,
    sigma: Annotated[float, Float(min=0.1, max=10.0, step=0.01)] = 1.0,
    alpha: Annotated[float, Float(min=0.0, max=5.0, step=0.01)] = 1.0,
) -> Image:
    """A picture with its edges made stronger.

    image: the picture; its sides must be longer than the radius.
    sharpen_radius: how wide an edge is, in pixels.
    sigma: how evenly within the radius.
    alpha: how much.
    """
    kernel = -10 * alpha * gaussian(2 * sharpen_radius + 1, sigma)
    kernel[sharpen_radius, sharpen_radius] += 1 + 10 * alpha
    return _convolved(image, kernel).clamp(0, 1)


@effect("ImageQuantize")
def quantize(image: Image, colors: Annotated[int, Int(min=1, max=256, step=1)] = 256, *, dither: Dither) -> Image:
    """Each picture in so many colours of its own choice.

    image: the picture.
    colors: how many colours.
    dither: how the colours between are imitated.
    """
    return torch.stack([_quantized(one, colors, dither) for one in image]).to(image)


def _quantized(image: Tensor, colors: int, dither: str) -> Tensor:
    """image: (H, W, 3 or 4) → (H, W, 3)."""
    values = (255.0 * image[..., :3].cpu()).clamp(0, 255).byte().numpy()
    picture = Picture.fromarray(values)
    palette = picture.quantize(colors=colors)
    method = Picture.Dither.NONE
    if dither == "floyd-steinberg":
        method = Picture.Dither.FLOYDSTEINBERG
    elif dither != "none":
        picture = Picture.fromarray(_ordered(values, int(dither.removeprefix("bayer-")), _entries(palette)))
    reduced = picture.quantize(colors=colors, palette=palette, dither=method).convert("RGB")
    return torch.from_numpy(np.array(reduced).astype(np.float32) / 255.0)


def _entries(palette: Picture.Image) -> int:
    return len(palette.getpalette() or ()) // 3


def _ordered(values: np.ndarray[Any, Any], side: int, entries: int) -> np.ndarray[Any, Any]:
    """Bytes (H, W, 3) with an ordered pattern added, wide enough to reach the next of so many colours."""
    height, width = values.shape[:2]
    pattern = np.tile(bayer(side), (-(-height // side), -(-width // side)))[:height, :width, None]
    return (values + 512 / entries * pattern + 0.5).clip(0, 255).astype(np.uint8)


def bayer(side: int) -> np.ndarray[Any, Any]:
    """Bayer's pattern (side, side) of thresholds around 0, less than 1 apart from end to end; side: a power of two."""
    if side == 1:
        return np.zeros((1, 1))
    count = side * side
    smaller = count * bayer(side // 2)
    return np.block([[smaller - 1.5, smaller + 0.5], [smaller + 1.5, smaller - 0.5]]) / count


@node("ImageAddNoise", category="image", title="ImageAddNoise", python_module="comfy_extras.nodes_images")
def add_noise(image: Image, seed: Seed = 0, strength: Fraction = 0.5) -> Image:
    """A picture with normal noise on it.

    seed: the same seed gives the same noise.
    strength: how many times the noise.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(image.shape, generator=generator, dtype=torch.float32)
    return (image + strength * noise.to(image)).clamp(0, 1)
