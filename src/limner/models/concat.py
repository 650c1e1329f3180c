"""What inpainting and editing models see beside the noised latent: a mask, a masked picture, a picture to edit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.sampling.latent import LatentFormat

# A latent of Stable Diffusion 1's autoencoder for medium grey, in model space.
GREY = (0.8223, -0.6876, 0.6364, 0.1380)


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

    kinds: "mask" (1 where to paint), "masked_image", or "image". concat_latent_image: in the autoencoder's space;
    latent_image: in the model's, taken where there is none. A mask wins over `denoise_mask`; without any, everything
    is painted over grey.
    """
    if tuple(kinds) == ("image",):
        picture = torch.zeros_like(noise) if concat_latent_image is None else concat_latent_image
        return _fitted(picture.to(noise), noise)
    mask = denoise_mask if concat_mask is None else concat_mask
    if mask is None:
        painted = torch.ones_like(noise[:, :1])
        picture = noise.new_tensor(GREY).view(1, -1, 1, 1).expand_as(noise)
        return torch.cat((painted, picture), dim=1)
    if concat_latent_image is not None:
        picture = latent_format.process_in(concat_latent_image)
    else:
        picture = torch.zeros_like(noise) if latent_image is None else latent_image
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).to(noise)
    painted = _repeated(_resized(mask, noise).round(), len(noise))
    return torch.cat((painted, _fitted(picture.to(noise), noise)), dim=1)


def _fitted(picture: Tensor, like: Tensor) -> Tensor:
    """The picture cut about its centre to the aspect of `like`, resized to it, repeated to its batch."""
    height, width = like.shape[-2:]
    if picture.shape[-2:] != like.shape[-2:]:
        old_height, old_width = picture.shape[-2:]
        aspect, wanted = old_width / old_height, width / height
        x = round((old_width - old_width * (wanted / aspect)) / 2) if aspect > wanted else 0
        y = round((old_height - old_height * (aspect / wanted)) / 2) if aspect < wanted else 0
        picture = picture[..., y : old_height - y, x : old_width - x]
    return _repeated(_resized(picture, like), len(like))


def _resized(picture: Tensor, like: Tensor) -> Tensor:
    if picture.shape[-2:] == like.shape[-2:]:
        return picture
    return F.interpolate(picture, size=like.shape[-2:], mode="bilinear")


def _repeated(picture: Tensor, batch: int) -> Tensor:
    """The first `batch` of it, repeated from the start where it has fewer."""
    return picture.repeat(-(-batch // len(picture)), *[1] * (picture.ndim - 1))[:batch]
