"""bitsandbytes' form, in which the diffusers and transformers libraries save models: nf4, and int8 by row.

nf4: `<layer>.weight` holds two codes a byte, the first in the high bits, of the tensor as one row; beside it `.absmax`
by block, `.quant_map` and `.quant_state.bitsandbytes__nf4`, a JSON text. `.nested_…`: the largest numbers are in
eight bits. int8: `<layer>.SCB`, the largest number of each row.
Source: the bitsandbytes library, `functional.QuantState` and `nn.Linear8bitLt`.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from limner.weights.header import CheckpointHeader
from limner.weights.lazy import LazyTensor
from limner.weights.quant.form import MOST_PER_NUMBER, WEIGHT, Form, Found, Stored, bad, beside, parsed
from limner.weights.quant.layouts.nf4 import BLOCK, VALUES
from limner.weights.quant.registry import REGISTRY

STATE = ".quant_state.bitsandbytes__"
PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
ROWS, ROWS_FORMAT = ".SCB", ".weight_format"
LARGEST = 127
LONGEST = 1 << 16
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.bfloat16}
"""What a layer stands for, by the name of what it was; float32 is more than four bits need."""


def find(header: CheckpointHeader) -> Found:
    """The layers in this form. Raises BadInput for fp4, and where the parts of a layer do not fit."""
    weights: list[Stored] = []
    consumed: set[str] = set()
    for name in header:
        if STATE in name:
            weight, _, kind = name.partition(STATE)
            weights.append(_four_bits(header, weight, kind, name))
            consumed |= {name, *(weight + part for part in PARTS)}
        elif name.endswith(ROWS):
            layer = name.removesuffix(ROWS)
            weights.append(_eight_bits(header, layer))
            consumed |= {name, layer + ROWS_FORMAT}
    return Found(tuple(weights), frozenset(consumed))


def _eight_bits(header: CheckpointHeader, layer: str) -> Stored:
    tensors = beside(header, layer)
    weight, largest = tensors["weight"], header.tensors[layer + ROWS]
    if weight.dtype != torch.int8 or not weight.shape or largest.shape != weight.shape[:1]:
        raise bad(
            header, f"{layer + ROWS} does not fit {layer + WEIGHT}.",
            f"They are {list(largest.shape)} and {weight.dtype} {list(weight.shape)}.",
        )  # fmt: skip
    scale = LazyTensor(torch.float32, (weight.shape[0], 1), lambda: largest.read().float()[:, None] / LARGEST)
    return Stored(layer + WEIGHT, REGISTRY.find("int8_rowwise"), {"weight": weight, "weight_scale": scale})


def _four_bits(header: CheckpointHeader, name: str, kind: str, state: str) -> Stored:
    if kind != "nf4":
        raise bad(header, f"{name} is in bitsandbytes' {kind}.", "Of its four-bit types nf4 is read.", "Get it in nf4.")
    if name not in header or not name.endswith(WEIGHT):
        raise bad(header, f"There is no weight {name}.", f"{state} says that it is quantized.")
    entry = header.tensors[state]
    if entry.dtype != torch.uint8 or prod(entry.shape) > LONGEST:
        raise bad(header, f"{state} is no text.", f"It is {entry.dtype} {list(entry.shape)}.")
    said = parsed(header, bytes(entry.read().reshape(-1).tolist()), state)
    shape, block = said.get("shape"), said.get("blocksize")
    packed = header.tensors[name]
    sizes = shape if isinstance(shape, list) and all(type(one) is int and one > 0 for one in shape) else []
    nbytes = prod(packed.shape) * packed.dtype.itemsize
    if not sizes or prod(sizes) != 2 * nbytes or prod(sizes) > nbytes * MOST_PER_NUMBER:
        raise bad(header, f"{name} is said to have the shape {shape!r}.", f"It has {nbytes:,} bytes.")
    rows, columns = (1, sizes[0]) if len(sizes) == 1 else (sizes[0], prod(sizes[1:]))
    if type(block) is not int or block <= 0 or block % BLOCK or columns % block:
        raise bad(
            header, f"{name} has blocks of {block!r} weights in rows of {columns}.",
            f"Read are blocks of {BLOCK} or a multiple of it that fit a row.", "Get the file in another form.",
        )  # fmt: skip
    numbers = LazyTensor(
        torch.uint8, (rows, columns // 2), lambda: _swapped(packed.read()).reshape(rows, -1), packed.release
    )
    scale = _largest(header, name, said, rows * columns // block)
    repeats = block // BLOCK
    by_row = LazyTensor(
        torch.float32,
        (rows, columns // BLOCK),
        lambda: scale.read().reshape(rows, -1).repeat_interleave(repeats, 1),
        scale.release,
    )
    return Stored(
        name,
        REGISTRY.find("nf4"),
        {"weight": numbers, "weight_scale": by_row},
        shape=tuple(sizes),
        dtype=DTYPES.get(str(said.get("dtype"))),
    )


def _swapped(packed: Tensor) -> Tensor:
    """The first of two codes in the low bits."""
    packed = packed.view(torch.uint8)
    return (packed >> 4) | (packed << 4)


def _largest(header: CheckpointHeader, name: str, said: dict[str, Any], blocks: int) -> LazyTensor:
    """The largest number of each block: float32."""
    values = _part(header, name + ".quant_map", len(VALUES)).read().float().reshape(-1)
    if not torch.allclose(values, torch.tensor(VALUES), atol=1e-6):
        raise bad(header, f"{name} has values of its own.", "They are not nf4's sixteen.", "Get it in plain nf4.")
    absmax = _part(header, name + ".absmax", blocks)
    if name + ".nested_absmax" not in header:
        return absmax
    every, offset = said.get("nested_blocksize"), said.get("nested_offset")
    if type(every) is not int or every <= 0 or not isinstance(offset, float | int) or absmax.dtype != torch.uint8:
        raise bad(header, f"{name}: its largest numbers are quantized in a way that is not told.", f"{said!r}.")
    outer = _part(header, name + ".nested_absmax", -(-blocks // every))
    table = _part(header, name + ".nested_quant_map", 256)

    def read() -> Tensor:
        inner = table.read().float()[absmax.read().reshape(-1).int()]
        return inner * outer.read().float().reshape(-1).repeat_interleave(every)[:blocks] + offset

    return LazyTensor(torch.float32, (blocks,), read)


def _part(header: CheckpointHeader, name: str, numbers: int) -> LazyTensor:
    entry = header.tensors.get(name)
    if entry is None or prod(entry.shape) != numbers:
        there = "It is not there." if entry is None else f"It has the shape {list(entry.shape)}."
        raise bad(header, f"{name} must hold {numbers} numbers.", there)
    return entry


FORM = Form(find)
