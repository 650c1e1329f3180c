"""limner inspect: what a model file is, read from its header alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path


def inspect(file: Path, /, *, strip: bool = False, run: bool = False) -> Iterator[str]:
    """Say what a model file is: family, dtypes, layout, size.

    file: a safetensors file or a pickled checkpoint; its tensors are not read.
    strip: print names, dtypes and shapes as JSON instead, as a test fixture or for a bug report.
    run: draw a small picture on the CPU too, and say which operations dequantized a weight, and how often.
    """
    from limner.models.inspect import describe, stripped
    from limner.weights.header import CheckpointHeader
    from limner.weights.quant.files import quantized

    header = CheckpointHeader.read(file)
    if strip:
        yield json.dumps(stripped(header), indent=None, separators=(",", ":"))
    else:
        yield from describe(quantized(header))
    if run:
        from limner.memory import MemoryManager
        from limner.models.trial import trial
        from limner.settings import Settings

        yield from trial(file, MemoryManager(Settings(cpu=True)))
