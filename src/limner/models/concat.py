"""What inpainting and editing models see beside the noised latent: a mask, a masked picture, a picture to edit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from limner.sampling.condition_values import repeat_to_batch
from limner.sampling.latent import LatentFormat
from limner.sampling.resize import common_upscale

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
    painted = repeat_to_batch(common_upscale(mask, noise.shape[-1], noise.shape[-2], "bilinear").round(), len(noise))
    return torch.cat((painted, _fitted(picture.to(noise), noise)), dim=1)


def _fitted(picture: Tensor, like: Tensor) -> Tensor:
    """The picture cut about its centre to the aspect of `like`, resized to it, repeated to its batch."""
    height, width = like.shape[-2:]
    if picture.shape[-2:] != like.shape[-2:]:
        picture = common_upscale(picture, width, height, "bilinear", "center")
    return repeat_to_batch(picture, len(like))
