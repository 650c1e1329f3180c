"""What a model file is, in words; and its names and shapes alone, as a fixture for tests and bug reports."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

from limner.errors import BadInput
from limner.models.control.load import detect as detect_control
from limner.models.convert import is_diffusers_unet
from limner.models.detect import Match, detect, diffusion_prefix
from limner.models.load_vae import recognise
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
    try:
        match = detect(header)
    except BadInput as error:
        return _part_alone(header) or f"unknown. {error.why}"
    variant = match.family.variant(config) if (config := _config(match, header)) is not None else None
    return f"{match.family.title}{f' ({variant.title})' if variant else ''}, {_layout(match, header)} layout"


def _part_alone(header: CheckpointHeader) -> str:
    """What a file without a diffusion model is; "" where that is not known."""
    if any(".lora_" in name or ".lora." in name for name in header):
        return "LoRA"
    if parts := parts_of(header):
        return f"text encoder: {', '.join(part.kind.title for part in parts)}"
    for part in (header, *(header.select(prefix) for prefix in ("first_stage_model.", "vae."))):
        if vae := _vae(part):
            return vae
    try:
        kind, _ = detect_control(header)
    except BadInput:
        return ""
    return kind.title


def _vae(header: CheckpointHeader) -> str:
    """The kind of an autoencoder and its latents; "" where the header is of none."""
    match = recognise(header)
    if match is None:
        return ""
    kind, part = match
    try:
        latent = kind.describe(kind.infer_config(part, overrides(header, "vae")))
    except BadInput:
        return f"VAE: {kind.title}"
    return f"VAE: {kind.title}, {latent.channels} channels, {latent.downscale} pixels a cell"


def _layout(match: Match, header: CheckpointHeader) -> str:
    """Whose names the diffusion model's tensors have."""
    part = header.select(match.prefix)
    if part.tensors.keys() == match.diffusion.tensors.keys():
        return "reference"
    diffusers = match.family.diffusers
    known = diffusers is not None and all(mark.test(part) for mark in diffusers.marks)
    return "diffusers" if known or is_diffusers_unet(part.tensors) else "older"


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
            if recognise(header.select(prefix)) is not None
        ]
    elif prefix := diffusion_prefix(header):
        found.append(_part("unknown diffusion model", prefix, header))
    return found


def _part(what: str, prefix: str, header: CheckpointHeader) -> str:
    part = header.select(prefix)
    return f"{what} under {prefix!r}, {len(part)} tensors, {part.nbytes() / 1e6:,.1f} MB"
