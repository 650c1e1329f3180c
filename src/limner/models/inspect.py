"""What a model file is, in words; and its names and shapes alone, as a fixture for tests and bug reports."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

from limner.errors import BadInput
from limner.models.convert import is_diffusers_unet, vae_from_diffusers
from limner.models.detect import Match, detect, diffusion_prefix, families
from limner.models.metadata import overrides
from limner.models.text.kinds import encoders, parts_of
from limner.weights.header import CheckpointHeader
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


def _match(header: CheckpointHeader) -> Match | None:
    try:
        return detect(header)
    except BadInput:
        return None


def _config(match: Match, header: CheckpointHeader) -> Any:
    """The network's dimensions; None where the file's own cannot be built."""
    try:
        return match.family.infer_config(match.diffusion, overrides(header, "unet"))
    except BadInput:
        return None


def _kind(header: CheckpointHeader) -> str:
    if match := _match(header):
        layout = "diffusers" if is_diffusers_unet(header.select(match.prefix).tensors) else "reference"
        variant = match.family.variant(config) if (config := _config(match, header)) is not None else None
        return f"{match.family.title}{f' ({variant.title})' if variant else ''}, {layout} layout"
    if any(".lora_" in name or ".lora." in name for name in header):
        return "LoRA"
    if parts := parts_of(header):
        return f"text encoder: {', '.join(part.kind.title for part in parts)}"
    if "decoder.conv_in.weight" in vae_from_diffusers(header):
        return "VAE"
    if "taesd_decoder.1.weight" in header or "decoder_layers.1.weight" in header:
        return "TAESD"
    return f"unknown (families known: {', '.join(family.title for family in families().values())})"


def _dtypes(header: CheckpointHeader) -> str:
    counts = Counter(_NAMES.get(entry.dtype, str(entry.dtype)) for entry in header.tensors.values())
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common())


def _parts(header: CheckpointHeader) -> list[str]:
    found = []
    if match := _match(header):
        config = _config(match, header)
        extra = "" if config is None else " + ".join(match.family.concat(config))
        found.append(_part("diffusion model", match.prefix, header) + (f", takes {extra} besides" if extra else ""))
        for spec in match.family.text.parts if match.family.text is not None else ():
            kind = encoders()[spec.encoder]
            there = [prefix for prefix in spec.prefixes if kind.fits(kind.convert(header.select(prefix)))]
            found += [_part(f"text encoder {spec.encoder}", prefix, header) for prefix in there[:1]]
        found += [
            _part("VAE", prefix, header)
            for prefix in match.family.vae_prefixes
            if "decoder.conv_in.weight" in vae_from_diffusers(header.select(prefix))
        ]
    elif prefix := diffusion_prefix(header):
        found.append(_part("unknown diffusion model", prefix, header))
    return found


def _part(what: str, prefix: str, header: CheckpointHeader) -> str:
    part = header.select(prefix)
    return f"{what} under {prefix!r}, {len(part)} tensors, {part.nbytes() / 1e6:,.1f} MB"
