"""Where noise comes from: the initial latent, and the fresh noise of stochastic samplers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.sampling.step import Noise


def prepare_noise(latent_image: Tensor, seed: int, noise_inds: Sequence[int] | None = None) -> Tensor:
    """Unit normal noise shaped like a latent, drawn on the CPU in the latent's dtype. Nodes call it through here.

    noise_inds: which member of a larger batch each latent is; equal numbers share their noise.
    """
    return prepare_noise_inner(latent_image, torch.Generator().manual_seed(seed), noise_inds)


def prepare_noise_inner(
    latent_image: Tensor, generator: torch.Generator, noise_inds: Sequence[int] | None = None
) -> Tensor:
    """The same from a generator that may have been used."""
    latent = latent_image
    if noise_inds is None:
        return _randn(latent.shape, latent.dtype, generator)
    one = torch.Size([1, *latent.shape[1:]])
    wanted = {int(index) for index in noise_inds}
    drawn = {}
    for index in range(max(wanted, default=-1) + 1):
        noise = _randn(one, latent.dtype, generator)
        if index in wanted:
            drawn[index] = noise
    return torch.cat([drawn[int(index)] for index in noise_inds])


def _randn(shape: torch.Size, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, dtype=dtype, layout=torch.strided, generator=generator, device=generator.device)


def gaussian(x: Tensor, seed: int) -> Noise:
    """Independent noise for every call, from one generator on the latent's device.

    A third argument is a latent that the noise is shaped like, for samplers that change the size.
    """
    generator = torch.Generator(device=x.device).manual_seed(seed)

    def noise(_sigma: float, _after: float, like: Tensor = x) -> Tensor:
        return _randn(like.shape, like.dtype, generator)

    return noise


def brownian(x: Tensor, sigmas: Sequence[float], seed: int, place: Callable[[Tensor], Tensor] | None) -> Noise:
    """Increments of one Brownian path over noise levels: refining the steps refines the same path.

    place: draw on the CPU and bring every increment to x's device with this; None draws on that device.
    """
    import torchsde  # noqa: PLC0415 - slow to import, and few samplers need it

    positive = [sigma for sigma in sigmas if sigma > 0]
    if not positive:
        raise BadInput("A Brownian path needs at least one sigma above 0.")
    origin = torch.zeros_like(x, device=x.device if place is None else "cpu")
    start, end = round(min(positive), 6), round(max(positive), 6)  # the tree rounds its ends, and warns of others
    path = torchsde.BrownianTree(start, origin, end, entropy=seed)

    def noise(sigma: float, after: float) -> Tensor:
        low, high, sign = (sigma, after, 1) if sigma < after else (after, sigma, -1)
        increment: Tensor = path(max(low, start), min(high, end)) * (sign / (high - low) ** 0.5)
        return increment if place is None else place(increment)

    return noise
