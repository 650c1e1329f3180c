"""Checkpoints whose weights are eight-bit floats with a scale beside them: read as the numbers they stand for.

Two notations are known: `scaled_fp8` (a marker tensor of that name, and `scale_weight` beside each weight) and the
`_quantization_metadata` of a file with `float8_e4m3fn` layers (`weight_scale` beside each). Both mean
weight = number · scale. What belongs to the activations (`scale_input`, `input_scale`) is not needed here.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.weights.header import CheckpointHeader
from limner.weights.lazy import LazyTensor

MARKER = "scaled_fp8"
WEIGHT_SCALES = ("scale_weight", "weight_scale")
ACTIVATION_SCALES = ("scale_input", "input_scale")
EIGHT_BITS = frozenset((torch.float8_e4m3fn, torch.float8_e5m2))
RESULT = torch.bfloat16
"""What scaled weights are read as: it has the range of the product, and more precision than the eight bits had."""


def unscaled(header: CheckpointHeader) -> CheckpointHeader:
    """The same file with every scaled weight told as a bfloat16 one, multiplied out when it is read.

    A file without scales is returned as it is. Raises BadInput for a scale that has no weight, or more than one number
    that do not stand for the weight's rows.
    """
    scales = {name: _weight_of(name, header) for name in header if name.rpartition(".")[2] in WEIGHT_SCALES}
    if not scales:
        return header
    tensors = dict(header.tensors)
    for name, weight in scales.items():
        if tensors[weight].dtype in EIGHT_BITS:
            tensors[weight] = _multiplied(weight, tensors[weight], tensors[name], header)
    left_out = {*scales, *(name for name in tensors if name.rpartition(".")[2] in (MARKER, *ACTIVATION_SCALES))}
    return replace(header, tensors={name: entry for name, entry in tensors.items() if name not in left_out})


def _weight_of(scale: str, header: CheckpointHeader) -> str:
    weight = scale.rpartition(".")[0] + ".weight"
    if weight not in header:
        raise BadInput(
            f"{header.path.name}: {scale} scales nothing.",
            why=f"There is no {weight}.",
            do="The file is incomplete or of another layout; get a complete one.",
        )
    return weight


def _multiplied(name: str, weight: LazyTensor, scale: LazyTensor, header: CheckpointHeader) -> LazyTensor:
    numbers = torch.Size(scale.shape).numel()
    if numbers not in (1, weight.shape[0]):
        raise BadInput(
            f"{header.path.name}: the scale of {name} has the shape {list(scale.shape)}.",
            why=f"The weight is {list(weight.shape)}; known are one scale for all of it or one for each row.",
            do="Get the file in bfloat16, float16 or plain float8.",
        )

    def read() -> Tensor:
        factor = scale.read().float().reshape(-1, *[1] * (len(weight.shape) - 1))
        return weight.read().float().mul_(factor).to(RESULT)

    return replace(weight, dtype=RESULT, read=read, is_view=False)
