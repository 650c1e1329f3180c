"""The guide's later form: beside each quantized weight a uint8 tensor `<layer>.comfy_quant` that holds UTF-8 JSON.

{"format": …, "full_precision_matrix_mult": true or false}, as objects of the header's metadata are.
"""

from __future__ import annotations

from math import prod

import torch

from limner.weights.header import CheckpointHeader
from limner.weights.quant.form import Form, Found, Stored, as_said, bad, parsed, taken

LEAF = "comfy_quant"
LONGEST = 1 << 16
"""Bytes of such a tensor at most."""


def find(header: CheckpointHeader) -> Found:
    """The layers with such a tensor. Raises BadInput where it holds something else."""
    weights: list[Stored] = []
    consumed: set[str] = set()
    for name in header:
        layer, _, leaf = name.rpartition(".")
        if leaf != LEAF:
            continue
        entry = header.tensors[name]
        if entry.dtype != torch.uint8 or prod(entry.shape) > LONGEST:
            raise bad(header, f"{name} is no text.", f"It is {entry.dtype} {list(entry.shape)}.")
        said = parsed(header, bytes(entry.read().reshape(-1).tolist()), name)
        weights.append(as_said(header, layer, said))
        consumed |= taken(layer, LEAF)
    return Found(tuple(weights), frozenset(consumed))


FORM = Form(find)
