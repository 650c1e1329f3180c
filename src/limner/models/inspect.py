"""What a model file is, in words; and its names and shapes alone, as a fixture for tests and bug reports."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

from limner.errors import BadInput
from limner.models.control.load import detect as detect_control
from limner.models.detect import diffusion_prefix
from limner.models.style_models import KINDS as STYLES
from limner.models.text.kinds import encoders
from limner.models.vae.kind import recognise
from limner.models.what import config_of, match_of, nearest, what_it_is
from limner.weights.header import CheckpointHeader
from limner.weights.lazy import PackedTensor
from limner.weights.safetensors import DTYPES

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def describe(header: CheckpointHeader) -> list[str]:
    """Lines that say what a file is: family, parts, layout, dtypes, size, metadata."""
    size = sum(prod(entry.shape) for entry in header.tensors.values())
    lines = [
        f"file:       {header.path.name}",
        f"kind:       {_kind(header)}",
        f"tensors:    {len(header)}, {size / 1e6:,.1f} million numbers, {header.nbytes() / 1e6:,.1f} MB",
        f"dtypes:     {_dtypes(header)}",
    ]
    lines += [f"part:       {part}" for part in _parts(header)]
    lines += [f"metadata:   {name} ({len(value):,} characters)" for name, value in sorted(header.metadata.items())]
    return lines


def stripped(header: CheckpointHeader) -> dict[str, Any]:
    """Names, dtypes and shapes, and the `config` metadata: nothing of the weights. `unstripped` reads it back."""
    tensors = [[name, _NAMES.get(entry.dtype, str(entry.dtype)), list(entry.shape)] for name, entry in
               header.tensors.items()]  # fmt: skip
    metadata = {"config": header.metadata["config"]} if "config" in header.metadata else {}
    return {"tensors": tensors, "metadata": metadata}


def _kind(header: CheckpointHeader) -> str:
    if known := what_it_is(header):
        return known
    if style := next((kind.title for kind in STYLES if all(mark.test(header) for mark in kind.marks)), ""):
        return style
    try:
        kind, _ = detect_control(header)
    except BadInput:
        return f"unknown. {nearest(header)}"
    return kind.title


def _dtypes(header: CheckpointHeader) -> str:
    counts = Counter(
        (isinstance(entry, PackedTensor) and entry.layout) or _NAMES.get(entry.dtype, str(entry.dtype))
        for entry in header.tensors.values()
    )
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common())


def _parts(header: CheckpointHeader) -> list[str]:
    found = []
    if match := match_of(header):
        config = config_of(match, header)
        extra = "" if config is None else " + ".join(match.family.concat(config))
        found.append(_part("diffusion model", match.prefix, header) + (f", takes {extra} besides" if extra else ""))
        for spec in match.family.text.parts if match.family.text is not None else ():
            kind = encoders()[spec.encoder]
            there = [prefix for prefix in spec.prefixes if kind.fits(kind.convert(header.select(prefix)))]
            found += [_part(f"text encoder {spec.encoder}", prefix, header) for prefix in there[:1]]
        found += [
            _part("VAE", prefix, header)
            for prefix in match.family.vae_prefixes
            if recognise(header.select(prefix)) is not None
        ]
    elif prefix := diffusion_prefix(header):
        found.append(_part("unknown diffusion model", prefix, header))
    return found


def _part(what: str, prefix: str, header: CheckpointHeader) -> str:
    part = header.select(prefix)
    return f"{what} under {prefix!r}, {len(part)} tensors, {part.nbytes() / 1e6:,.1f} MB"
