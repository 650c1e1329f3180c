"""Inpainting, outpainting and editing: pictures and masks for the models that are made for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.graph import Conditioning, Image, Int, Latent, Mask, node
from limner.nodes.conditioning import with_values
from limner.nodes.kinds import VAE
from limner.nodes.resize import resize_mask

CELL = 8
Margin = Annotated[int, Int(min=0, max=16384, step=8)]


class Prepared(NamedTuple):
    """Both conditionings and the latent to start from."""

    positive: Conditioning
    negative: Conditioning
    latent: Latent


class Padded(NamedTuple):
    """The larger picture, and what of it is to be painted."""

    IMAGE: Image
    MASK: Mask


@node("SetLatentNoiseMask", category="latent/inpaint", title="Set Latent Noise Mask")
def set_noise_mask(samples: Latent, mask: Mask) -> Latent:
    """Only where the mask is 1 is the latent sampled; the mask may have any size."""
    return {**samples, "noise_mask": mask.reshape(-1, 1, *mask.shape[-2:])}


@node("VAEEncodeForInpaint", category="latent/inpaint", title="VAE Encode (for Inpainting)")
def encode_for_inpaint(
    pixels: Image, vae: VAE, mask: Mask, grow_mask_by: Annotated[int, Int(min=0, max=64, step=1)] = 6
) -> Latent:
    """A picture whose masked part is grey, encoded, with the mask grown a little."""
    pixels, soft = _cropped(pixels, mask, vae.spacial_compression_encode())
    grown = soft
    if grow_mask_by > 0:
        # an even kernel reaches one further up and left; the row and column too many are cut
        kernel = torch.ones(1, 1, grow_mask_by, grow_mask_by, dtype=soft.dtype)
        grown = F.conv2d(soft.round(), kernel, padding=grow_mask_by // 2).clamp(0, 1)
    height, width = pixels.shape[1:3]
    return {
        "samples": vae.encode(_greyed(pixels, soft)),
        "noise_mask": grown[:, :, :height, :width].round(),
    }


@node(
    "InpaintModelConditioning",
    category="conditioning/inpaint",
    title="InpaintModelConditioning",
)
def inpaint_model_conditioning(
    positive: Conditioning,
    negative: Conditioning,
    vae: VAE,
    pixels: Image,
    mask: Mask,
    *,
    noise_mask: bool = True,
) -> Prepared:
    """What an inpainting model is shown: the mask, and the picture with its masked part grey."""
    cropped, soft = _cropped(pixels, mask, CELL)
    values = {"concat_latent_image": vae.encode(_greyed(cropped, soft)), "concat_mask": soft}
    latent: dict[str, Any] = {"samples": vae.encode(pixels)}
    if noise_mask:
        latent["noise_mask"] = soft
    return Prepared(with_values(positive, values), with_values(negative, values), latent)


@node(
    "InstructPixToPixConditioning",
    category="conditioning/instructpix2pix",
    title="",
    python_module="comfy_extras.nodes_ip2p",
    style="v3",
)
def instruct_pix_to_pix(positive: Conditioning, negative: Conditioning, vae: VAE, pixels: Image) -> Prepared:
    """What an editing model is shown: the picture to edit.

    positive: what to do.
    negative: what not to do.
    vae: the autoencoder of the model.
    pixels: the picture to edit.
    """
    height, width = pixels.shape[1:3]
    if height % CELL or width % CELL:
        pixels = _narrowed(pixels, (1, 2), (height, width), CELL)
    concat = vae.encode(pixels)
    values = {"concat_latent_image": concat}
    latent = {"samples": torch.zeros_like(concat)}
    return Prepared(with_values(positive, values), with_values(negative, values), latent)


@node("ImagePadForOutpaint", category="image", title="Pad Image for Outpainting")
def pad_for_outpaint(
    image: Image,
    left: Margin = 0,
    top: Margin = 0,
    right: Margin = 0,
    bottom: Margin = 0,
    *,
    feathering: Annotated[int, Int(min=0, max=16384, step=1)] = 40,
) -> Padded:
    """A picture with grey margins, and a mask of them that fades into the picture over `feathering` pixels."""
    batch, height, width, channels = image.shape
    size = (height + top + bottom, width + left + right)
    canvas = torch.full((batch, *size, channels), 0.5, dtype=torch.float32)
    canvas[:, top : top + height, left : left + width] = image
    mask = torch.ones(size, dtype=torch.float32)
    inside = torch.zeros(height, width)
    if 0 < 2 * feathering < min(height, width):
        # distance to the nearest edge that has a margin; a side without one is as far away as can be
        down, across = torch.arange(height)[:, None], torch.arange(width)[None]
        far_down, far_across = torch.full_like(down, height), torch.full_like(across, width)
        vertical = torch.minimum(down if top else far_down, height - down if bottom else far_down)
        horizontal = torch.minimum(across if left else far_across, width - across if right else far_across)
        distance = torch.minimum(vertical, horizontal)
        inside = ((feathering - distance).clamp(min=0) / feathering) ** 2
    mask[top : top + height, left : left + width] = inside
    return Padded(canvas, mask[None])


def _cropped(pixels: Tensor, mask: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Picture and mask, (B, 1, H, W), cut about the centre to multiples of `step`; the mask resized to the picture."""
    sides = height, width = pixels.shape[1], pixels.shape[2]
    mask = resize_mask(mask, width, height)
    return _narrowed(pixels, (1, 2), sides, step), _narrowed(mask, (2, 3), sides, step)


def _narrowed(x: Tensor, axes: Sequence[int], sides: Sequence[int], step: int) -> Tensor:
    for axis, side in zip(axes, sides, strict=True):
        x = x.narrow(axis, side % step // 2, side // step * step)
    return x


def _greyed(pixels: Tensor, mask: Tensor) -> Tensor:
    """The picture with medium grey where the rounded mask is 1, in its colours only."""
    keep = (1.0 - mask.round())[:, 0, :, :, None]
    colours = (pixels[..., :3] - 0.5) * keep + 0.5
    return torch.cat((colours, pixels[..., 3:].expand(len(colours), -1, -1, -1)), dim=-1)
