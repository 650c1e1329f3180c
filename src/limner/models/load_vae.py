"""Files to VAE: which autoencoder they hold. The folder `vae` is the registry."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path

import torch

from limner.memory import MemoryManager
from limner.models.autoencoder import VAE
from limner.models.metadata import overrides, said
from limner.models.reading import read_header
from limner.models.vae.kind import AutoencoderKind
from limner.weights import CheckpointHeader, LazyTensor, NetworkSource


@cache
def autoencoders() -> Mapping[str, AutoencoderKind]:
    """Every kind of autoencoder by name: what the modules of the folder `vae` have as `AUTOENCODER`, one or several."""
    package = import_module("limner.models.vae")
    found: dict[str, AutoencoderKind] = {}
    for module in pkgutil.iter_modules(package.__path__):
        offered = getattr(import_module(f"limner.models.vae.{module.name}"), "AUTOENCODER", ())
        for kind in offered if isinstance(offered, tuple) else (offered,):
            found[kind.name] = kind
    return found


def recognise(header: CheckpointHeader) -> tuple[AutoencoderKind, CheckpointHeader] | None:
    """The kind that a bare autoencoder is of, with its header in the reference's names; None for an unknown one."""
    matching = []
    for kind in autoencoders().values():
        converted = kind.convert(header)
        if all(mark.test(converted) for mark in kind.marks):
            matching.append((kind, converted))
    return max(matching, key=lambda match: len(match[0].marks), default=None)


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
    vae = _vae(header, part, memory)
    if strict:
        vae.throw_exception_if_invalid()
    return vae


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
