"""A LoRA made of the difference of two networks' weights: the nearest matrix of a low rank.  Eckart & Young 1936."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from limner.weights.source import NetworkSource

_log = logging.getLogger(__name__)

QUANTILE = 0.99
"""Numbers of the two factors beyond this quantile of them, taken with either sign, are cut off."""


def extract(
    source: NetworkSource,
    prefix: str,
    rank: int,
    whole: bool,
    biases: bool,
    at_weight: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Tensor]:
    """The tensors, in half precision, of a LoRA file that adds the patched weights of `source`, which are a difference.

    prefix: of names in the file. rank: at most. whole: the differences themselves instead of factors. biases: with the
    differences of vectors and biases. at_weight: called with how many weights of how many are done.
    """
    found: dict[str, Tensor] = {}
    for done, name in enumerate(source.tensors):
        at_weight(done, len(source.tensors))
        target, _, leaf = (prefix + name).rpartition(".")
        if leaf == "bias" and biases:
            found[f"{target}.diff_b"] = source.patched(name).half().contiguous()
        if leaf != "weight":
            continue
        difference = source.patched(name).float()
        if whole or difference.ndim < 2:
            if whole or biases:
                found[f"{target}.diff"] = difference.half().contiguous()
            continue
        try:
            up, down = factors(difference, rank)
        except RuntimeError as error:
            _log.warning("%s has no singular values and is left out of the LoRA: %s", name, error)
            continue
        found[f"{target}.lora_up.weight"] = up.half().contiguous()
        found[f"{target}.lora_down.weight"] = down.half().contiguous()
    return found


def factors(difference: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(up, down) whose product is nearest to (out, in, …): up (out, r, 1…), down (r, in, …)."""
    rows, columns = difference.shape[:2]
    rank = min(rank, rows, columns)
    left, values, right = torch.linalg.svd(difference.flatten(1), full_matrices=False)
    up, down = left[:, :rank] * values[:rank], right[:rank]
    numbers = torch.cat([up.flatten(), down.flatten()])
    bound = float(torch.cat([numbers, -numbers]).quantile(QUANTILE))
    up, down = up.clamp(-bound, bound), down.clamp(-bound, bound)
    return up.reshape(rows, rank, *[1] * (difference.ndim - 2)), down.reshape(rank, *difference.shape[1:])
