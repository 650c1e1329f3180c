"""Batches of latents cut into batches of another size."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from limner.graph import Int, Kind, Latent, node
from limner.nodes.resize import repeat_to_batch, resize_mask

CELL = 8


@node(
    "RebatchLatents",
    category="latent/batch",
    title="Rebatch Latents",
    python_module="comfy_extras.nodes_rebatch",
    style="v3",
    input_is_list=True,
)
def rebatch_latents(
    latents: Annotated[list[Any], Kind("LATENT")],
    batch_size: Annotated[list[int], Int(min=1, max=4096, extra={"default": 1})],
) -> list[Latent]:
    """Latents of one size regrouped into batches of `batch_size`, with their masks and noise.

    latents: batches.
    batch_size: how many latents a batch has; the last of a size may have fewer.
    """
    size = batch_size[0]
    made: list[Latent] = []
    held: list[Any] = []
    seen = 0
    for latent in latents:
        whole = _complete(latent, seen)
        seen += len(whole[0])
        if held and held[0].shape[1:] != whole[0].shape[1:]:
            made += _emitted(held, len(held[0]))
            held = []
        held = _joined(held, whole) if held else whole
        if len(held[0]) > size:
            full = len(held[0]) // size * size
            made += _emitted([part[:full] for part in held], size)
            held = [part[full:] for part in held] if full < len(held[0]) else []
    return made + (_emitted(held, len(held[0])) if held else [])


def _complete(latent: Latent, offset: int) -> list[Any]:
    """Samples, a mask for each of them, and their indices; counted from `offset` where none are given."""
    samples: Tensor = latent["samples"]
    mask = latent.get("noise_mask")
    if mask is None:
        mask = torch.ones(len(samples), 1, samples.shape[-2] * CELL, samples.shape[-1] * CELL)
    indices = latent.get("batch_index")
    return [
        samples,
        repeat_to_batch(mask, len(samples)),
        list(range(offset, offset + len(samples)) if indices is None else indices),
    ]


def _joined(first: list[Any], second: list[Any]) -> list[Any]:
    height, width = first[1].shape[-2:]
    mask = second[1] if second[1].shape[1:] == first[1].shape[1:] else resize_mask(second[1], width, height)
    return [torch.cat((first[0], second[0])), torch.cat((first[1], mask)), first[2] + second[2]]


def _emitted(held: list[Any], size: int) -> list[Latent]:
    """Batches of `size`; a mask that keeps nothing back is left out."""
    made = []
    for start in range(0, len(held[0]), size):
        samples, mask, indices = (part[start : start + size] for part in held)
        batch = {"samples": samples, "batch_index": indices}
        made.append(batch if mask.mean() == 1.0 else {**batch, "noise_mask": mask})
    return made
