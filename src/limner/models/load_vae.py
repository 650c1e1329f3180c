"""Files to VAE: which autoencoder they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from limner.memory import MemoryManager
from limner.models.autoencoder import VAE, Autoencoder
from limner.models.convert import vae_from_diffusers
from limner.models.metadata import overrides, said
from limner.models.reading import read_header
from limner.models.vae.kl import AutoencoderKL, KLConfig
from limner.models.vae.taesd import TAESD, TAESDConfig
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
    return _taesd(replace(files[1], tensors=tensors, identity=files[0].identity + files[1].identity), memory)


def _taesd(header: CheckpointHeader, memory: MemoryManager) -> VAE:
    tensors = dict(header.tensors)
    for name, value in (("vae_scale", 1.0), ("vae_shift", 0.0)):
        tensors.setdefault(name, LazyTensor.of(torch.tensor(value)))
    config = TAESDConfig.from_state(header.shapes(), overrides(header, "vae"))
    kind = Autoencoder(
        channels=config.latent_channels,
        downscale=8,
        encode=lambda network, pictures: network.encode(pictures),  # type: ignore[operator]
        decode=lambda network, latent: network.decode(latent),  # type: ignore[operator]
        encode_bytes_per_pixel=300,
        decode_bytes_per_pixel=300,
    )
    return VAE(kind, NetworkSource("TAESD", partial(TAESD, config), tensors, header.identity), memory, header.path.name)


def _vae(header: CheckpointHeader, part: CheckpointHeader, memory: MemoryManager) -> VAE:
    if "taesd_decoder.1.weight" in part:
        return _taesd(part, memory)
    part = vae_from_diffusers(part)
    if "decoder.conv_in.weight" not in part or len(part.shape("decoder.conv_in.weight")) != 4:
        return VAE(None, None, memory, header.path.name)
    config = KLConfig.from_state(part.shapes(), overrides(header, "vae"))
    kind = Autoencoder(
        channels=config.embed_dim,
        downscale=config.downscale,
        encode=lambda network, pictures: network.encode(pictures),  # type: ignore[operator]
        decode=lambda network, latent: network.decode(latent),  # type: ignore[operator]
        encode_bytes_per_pixel=700,
        decode_bytes_per_pixel=1100,
        colours=config.in_channels,
    )
    source = NetworkSource(
        "VAE", partial(AutoencoderKL, config), part.tensors, header.identity, "first_stage_model.",
        said=said(header, "vae"),
    )  # fmt: skip
    return VAE(kind, source, memory, header.path.name)
