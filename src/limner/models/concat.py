"""What inpainting and editing models see beside the noised latent: a mask, a masked picture, a picture to edit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.sampling.condition_values import repeat_to_batch
from limner.sampling.latent import LatentFormat
from limner.sampling.resize import common_upscale

# A latent of Stable Diffusion 1's autoencoder for medium grey, in model space.
GREY = (0.8223, -0.6876, 0.6364, 0.1380)
CELL = 8  # pixels of a side of a latent cell


def concat_cond(
    kinds: Sequence[str],
    latent_format: LatentFormat,
    *,
    noise: Tensor,
    concat_latent_image: Tensor | None = None,
    concat_mask: Tensor | None = None,
    latent_image: Tensor | None = None,
    denoise_mask: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """The channels to join to the latent, in the order of `kinds`: (B, C', H, W) like `noise`.

    kinds: "mask" (1 where to paint) and "masked_image"; or "image"; or "scaled_image" and perhaps "pixel_mask" (the
    mask of the picture's own resolution, 64 channels). concat_latent_image: in the autoencoder's space; latent_image:
    in the model's, taken where there is none. A mask wins over `denoise_mask`; without any, everything is painted, over
    grey where the mask has one channel.

    Raises BadInput for a picture that another autoencoder encoded.
    """
    if concat_latent_image is not None:
        latent_format.refuse_other(concat_latent_image)
    mask = denoise_mask if concat_mask is None else concat_mask
    if kinds[0] in ("image", "scaled_image"):
        picture = torch.zeros_like(noise) if concat_latent_image is None else concat_latent_image
        if kinds[0] == "scaled_image":
            picture = latent_format.process_in(picture)
        parts = [_fitted(picture.to(noise), noise)]
        if "pixel_mask" in kinds:
            parts.append(_pixels_of_cells(mask, noise))
        return torch.cat(parts, dim=1)
    if mask is None:
        painted = torch.ones_like(noise[:, :1])
        picture = noise.new_tensor(GREY).view(1, -1, 1, 1).expand_as(noise)
        return torch.cat((painted, picture), dim=1)
    if concat_latent_image is not None:
        picture = latent_format.process_in(concat_latent_image)
    else:
        picture = torch.zeros_like(noise) if latent_image is None else latent_image
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).to(noise)
    painted = repeat_to_batch(common_upscale(mask, noise.shape[-1], noise.shape[-2], "bilinear").round(), len(noise))
    return torch.cat((painted, _fitted(picture.to(noise), noise)), dim=1)


def _pixels_of_cells(mask: Tensor | None, like: Tensor) -> Tensor:
    """A mask with the 8×8 pixels of each latent cell as 64 channels: (B, 64, H, W); all ones where there is none."""
    height, width = like.shape[-2:]
    if mask is None:
        return like.new_ones(len(like), CELL**2, height, width)
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).to(like)
    whole = common_upscale(mask, width * CELL, height * CELL, "bilinear", "center")
    return repeat_to_batch(F.pixel_unshuffle(whole, CELL), len(like))


def _fitted(picture: Tensor, like: Tensor) -> Tensor:
    """The picture cut about its centre to the aspect of `like`, resized to it, repeated to its batch."""
    height, width = like.shape[-2:]
    if picture.shape[-2:] != like.shape[-2:]:
        picture = common_upscale(picture, width, height, "bilinear", "center")
    return repeat_to_batch(picture, len(like))
