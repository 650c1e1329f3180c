"""Weights in every layout, for the tests."""

import torch
from torch import Tensor

from limner.weights.quant import REGISTRY, Layout, Parts, QuantizedTensor, quantize

BUILT_IN = tuple(REGISTRY)
WRITTEN = tuple(name for name in BUILT_IN if REGISTRY[name].writes)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blocks_of(layout: Layout, rows: int, columns: int, seed: int = 0) -> QuantizedTensor:
    """Random blocks of a layout that is only read, their float16 scales made finite."""
    form = layout.form  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 256, (rows * columns // form.weights, form.bytes), generator=generator, dtype=torch.uint8)
    scale = (torch.rand(len(raw), 1, generator=generator) / 100).half().view(torch.uint8)
    for start in {0, *((80, 82) if form.bytes == 84 else (2,) if form.bytes in (144, 176) else ()), form.bytes - 2}:
        raw[:, start : start + 2] = scale
    return QuantizedTensor.of(layout, Parts(raw.reshape(rows, -1), (rows, columns), torch.float32))


def example(name: str, rows: int = 48, columns: int = 256, seed: int = 0) -> QuantizedTensor:
    layout = REGISTRY[name]
    return (
        quantize(gaussian(rows, columns, seed=seed), name) if layout.writes else blocks_of(layout, rows, columns, seed)
    )
