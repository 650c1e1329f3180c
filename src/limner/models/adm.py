"""The vector that some UNets are told beside time and text: sizes, crops and scores as sines, after the pooled text.

Source: Podell et al. 2023, section 2.2 (SDXL and its refiner); Blattmann et al. 2023, appendix D (video). The name is
the checkpoints' own (`adm_in_channels`). unCLIP models are told pictures instead, with some noise on them, and how much
(Ramesh et al. 2022, section 2.1; Nichol & Dhariwal 2021 for the noise levels).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.models.unet import timestep_embedding
from limner.sampling.time import beta_sigmas

WIDTH = 256
"""Sines and cosines of one number."""
FALLBACK_SIZE = 768
"""Pixels of a side that nobody says."""


TIMES = 1000
"""Noise levels of pictures that a model is told."""
MERGED = 0.05
"""How much noise is put on the sum of several pictures."""
SEED_OFFSET = 10
"""The noise of what a model is told is that of the run's seed less this."""


def sines(numbers: Sequence[float]) -> Tensor:
    """Each number embedded as a time is, one after the other: (1, 256 · count), float32."""
    return timestep_embedding(torch.tensor([float(number) for number in numbers]), WIDTH).flatten()[None]


def sdxl_vector(
    pooled: Tensor,
    *,
    width: int = FALLBACK_SIZE,
    height: int = FALLBACK_SIZE,
    crop_w: int = 0,
    crop_h: int = 0,
    target_width: int | None = None,
    target_height: int | None = None,
) -> Tensor:
    """SDXL's: (B, P + 1536). pooled: (B, P). Sizes and crops in pixels; the target is the size where it is not said."""
    target = (height if target_height is None else target_height, width if target_width is None else target_width)
    return _after(pooled, (height, width, crop_h, crop_w, *target))


def refiner_vector(
    pooled: Tensor,
    *,
    width: int = FALLBACK_SIZE,
    height: int = FALLBACK_SIZE,
    crop_w: int = 0,
    crop_h: int = 0,
    aesthetic_score: float | None = None,
    prompt_type: str = "",
) -> Tensor:
    """The SDXL refiner's: (B, P + 1280). pooled: (B, P). The score is 6, for a negative prompt 2.5, if not said."""
    if aesthetic_score is None:
        aesthetic_score = 2.5 if prompt_type == "negative" else 6.0
    return _after(pooled, (height, width, crop_h, crop_w, aesthetic_score))


def video_vector(*, fps: float = 6, motion_bucket_id: float = 127, augmentation_level: float = 0.0) -> Tensor:
    """Stable Video Diffusion's: (1, 768). It was trained with the frame rate less one."""
    return sines((fps - 1, motion_bucket_id, augmentation_level))


def sizes(entries: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Of a condition's entries the sizes of these names that are said."""
    return {name: entries[name] for name in names if entries.get(name) is not None}


def pooled_text(title: str, entries: Mapping[str, Any], width: int) -> Tensor:
    """The pooled text of a condition; where it has pictures (`unclip_conditioning`), they in its place.

    title: of the family, for messages. width: of the vector of pictures, see `unclip_vector`.
    """
    if entries.get("unclip_conditioning") is not None:
        return unclip_vector(entries, width, merged=0.0)[:, : width // 2]
    pooled: Tensor | None = entries.get("pooled_output")
    if pooled is None:
        raise BadInput(
            f"{title} needs the pooled text, and the conditioning has none.",
            why="It was made by a text encoder of another family, or by a node that drops it.",
            do="Encode the prompt with the CLIP of this model's checkpoint.",
        )
    return pooled


# -- pictures ---------------------------------------------------------------------------------------------------------


def unclip_vector(entries: Mapping[str, Any], width: int, merged: float = MERGED) -> Tensor:
    """The pictures of `unclip_conditioning`, noised, and how much noise is on them: (1, width); zeros where none is.

    entries: of a condition. Each picture is `clip_vision_output.image_embeds` (N, width / 2), noised by
    `noise_augmentation` (0..1) and weighted by `strength`; several are added, and noised again by `merged`.
    """
    pictures = entries.get("unclip_conditioning")
    if pictures is None:
        return torch.zeros(1, width)
    signal, seed = signal_of_cosine(), seed_of(entries)
    found: list[Tensor] = []
    for one in pictures:
        level = round((TIMES - 1) * float(one["noise_augmentation"]))
        embeds = [_fitting(embed, width // 2) for embed in one["clip_vision_output"].image_embeds]
        found += [_with_level(embed, level, signal, seed) * float(one["strength"]) for embed in embeds]
    if len(found) == 1:
        return found[0]
    total = torch.stack(found).sum(0)[:, : width // 2]
    return _with_level(total, round((TIMES - 1) * merged), signal, seed)


def _fitting(embed: Tensor, width: int) -> Tensor:
    """One picture's vector as (1, width), float32."""
    if embed.shape[-1] != width:
        raise BadInput(
            f"The picture's vector is {embed.shape[-1]} wide, the model takes {width}.",
            why="It was made by another CLIP vision encoder than the model was trained with.",
            do="Use the CLIP_VISION of the model's own checkpoint.",
        )
    return embed.reshape(1, width).float()


def _with_level(embed: Tensor, level: int, signal: Tensor, seed: int) -> Tensor:
    """A vector (1, D) noised to a level, then the level as sines: (1, 2 D)."""
    told = timestep_embedding(torch.tensor([float(level)], device=embed.device), embed.shape[1])
    return torch.cat((noised(embed, signal[level], seed), told), dim=1)


def seed_of(entries: Mapping[str, Any]) -> int:
    """The seed of the noise on what a model is told."""
    return int(entries.get("seed") or 0) - SEED_OFFSET


def noised(x: Tensor, signal: Tensor, seed: int) -> Tensor:
    """√ᾱ · x + √(1 - ᾱ) · noise, the noise drawn on the CPU. signal: ᾱ, a number."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
    share = float(signal)
    return x * share**0.5 + noise * (1 - share) ** 0.5


def signal_of_cosine() -> Tensor:
    """ᾱ of the cosine schedule: (1000,), float64. Nichol & Dhariwal 2021, equation 17, betas at most 0.999."""
    times = torch.arange(TIMES + 1, dtype=torch.float64) / TIMES
    bar = ((times + 0.008) / 1.008 * (math.pi / 2)).cos() ** 2
    return (bar[1:] / bar[:-1]).clamp(min=0.001).cumprod(0)


def signal_of_betas(said: Mapping[str, Any]) -> Tensor:
    """ᾱ of a schedule of betas: (1000,). said: `beta_schedule`, `linear_start` and `linear_end`."""
    sigmas = beta_sigmas(said["beta_schedule"], said["linear_start"], said["linear_end"], TIMES)
    return 1 / (1 + sigmas.double() ** 2)


def _after(pooled: Tensor, numbers: Sequence[float]) -> Tensor:
    embedded = sines(numbers).to(pooled)
    return torch.cat((pooled, embedded.expand(len(pooled), -1)), dim=1)
