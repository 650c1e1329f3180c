"""What a file is, in a few words: for `limner inspect`, and for loaders that are given something else."""

from __future__ import annotations

from typing import Any

from limner.errors import BadInput
from limner.models.convert import is_diffusers_unet
from limner.models.detect import Match, detect
from limner.models.metadata import overrides
from limner.models.text.kinds import parts_of
from limner.models.vae.kind import recognise
from limner.models.vision.kind import PREFIXES as VISION_PREFIXES
from limner.models.vision.kind import recognise as recognise_vision
from limner.weights.header import CheckpointHeader


def what_it_is(header: CheckpointHeader) -> str:
    """The family and layout of a diffusion model, else which part of a model it is; "" for none that is known here."""
    if match := match_of(header):
        variant = match.family.variant(config) if (config := config_of(match, header)) is not None else None
        return f"{match.family.title}{f' ({variant.title})' if variant else ''}, {_layout(match, header)} layout"
    if any(".lora_" in name or ".lora." in name for name in header):
        return "LoRA"
    if parts := parts_of(header):
        return f"text encoder: {', '.join(part.kind.title for part in parts)}"
    parts_of_vae = (header, *(header.select(prefix) for prefix in ("first_stage_model.", "vae.")))
    if vae := next((said for part in parts_of_vae if (said := _vae(part))), ""):
        return vae
    encoders = (recognise_vision(header.select(prefix)) for prefix in VISION_PREFIXES)
    return next((f"vision encoder: {found[0].title}" for found in encoders if found is not None), "")


def match_of(header: CheckpointHeader) -> Match | None:
    """The family of a file; None where none claims it."""
    try:
        return detect(header)
    except BadInput:
        return None


def nearest(header: CheckpointHeader) -> str:
    """Why no family claims a file; "" where one does."""
    try:
        detect(header)
    except BadInput as error:
        return error.why
    return ""


def config_of(match: Match, header: CheckpointHeader) -> Any:
    """The network's dimensions; None where the file's own cannot be built."""
    try:
        return match.family.infer_config(match.diffusion, overrides(header, "unet"))
    except BadInput:
        return None


def _layout(match: Match, header: CheckpointHeader) -> str:
    """Whose names the diffusion model's tensors have."""
    part = header.select(match.prefix)
    if part.tensors.keys() == match.diffusion.tensors.keys():
        return "reference"
    diffusers = match.family.diffusers
    known = diffusers is not None and all(mark.test(part) for mark in diffusers.marks)
    return "diffusers" if known or is_diffusers_unet(part.tensors) else "older"


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
