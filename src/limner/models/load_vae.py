"""Files to VAE: which autoencoder they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from limner.errors import BadInput
from limner.memory import MemoryManager
from limner.models.autoencoder import VAE
from limner.models.metadata import overrides, said
from limner.models.reading import read_header
from limner.models.vae.kind import recognise
from limner.models.what import what_it_is
from limner.weights import CheckpointHeader, LazyTensor, NetworkSource


def vae_in_checkpoint(header: CheckpointHeader, prefixes: Sequence[str], memory: MemoryManager) -> VAE:
    """The autoencoder of a checkpoint, by where its family has it; one that says so when used where it has none."""
    for prefix in prefixes:
        part = header.select(prefix)
        if len(part):
            return _vae(header, part, memory)
    return VAE(None, None, memory, header.path.name)


def load_vae(path: str | Path, memory: MemoryManager) -> VAE:
    """A file that is an autoencoder, or a checkpoint that holds one. Raises BadInput when it is neither."""
    return vae_of(read_header(path, memory), memory)


def vae_of(header: CheckpointHeader, memory: MemoryManager, *, strict: bool = True) -> VAE:
    """The autoencoder of a header, bare or inside a checkpoint. strict: raise BadInput at once where there is none."""
    part = header
    for prefix in ("first_stage_model.", "vae."):
        if len(selected := header.select(prefix)):
            part = selected
    if strict and recognise(part) is None:
        raise BadInput(
            f"{header.path.name} holds no VAE that is known here.",
            why=f"Found: {what_it_is(header) or 'nothing that is known'}.",
            do="Choose the file of an autoencoder, or a checkpoint that has one.",
        )
    return _vae(header, part, memory)


def load_taesd(encoder: str | Path, decoder: str | Path, scale: float, shift: float, memory: MemoryManager) -> VAE:
    """The two files of a tiny autoencoder. scale, shift: of the latents of the large one, as nodes see them."""
    files = read_header(encoder, memory), read_header(decoder, memory)
    tensors = {
        prefix + name.removeprefix(prefix): entry
        for prefix, header in zip(("taesd_encoder.", "taesd_decoder."), files, strict=True)
        for name, entry in header.tensors.items()
    }
    tensors |= {
        f"vae_{name}": LazyTensor.of(torch.tensor(value)) for name, value in (("scale", scale), ("shift", shift))
    }
    header = replace(files[1], tensors=tensors, identity=files[0].identity + files[1].identity)
    return vae_of(header, memory)


def _vae(header: CheckpointHeader, part: CheckpointHeader, memory: MemoryManager) -> VAE:
    match = recognise(part)
    if match is None:
        return VAE(None, None, memory, header.path.name)
    kind, part = match
    config = kind.infer_config(part, overrides(header, "vae"))
    source = NetworkSource(
        "VAE", partial(kind.network, config), part.tensors, header.identity, "first_stage_model.",
        said=said(header, "vae"),
    )  # fmt: skip
    return VAE(kind.describe(config), source, memory, header.path.name)
