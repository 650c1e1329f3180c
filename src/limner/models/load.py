"""Files to MODEL, CLIP and VAE. Only headers are read here; weights are read when a model is first used."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from limner.errors import BadInput
from limner.memory import MemoryManager
from limner.models.autoencoder import VAE, Autoencoder
from limner.models.convert import vae_from_diffusers
from limner.models.detect import Match, detect
from limner.models.metadata import overrides
from limner.models.model import Model
from limner.models.vae.kl import AutoencoderKL, KLConfig
from limner.sampling.model_sampling import make_sampling
from limner.weights import CheckpointHeader, NetworkSource

MODEL_PREFIX = "diffusion_model."


class Checkpoint(NamedTuple):
    """What a checkpoint holds. `clip` None: it has no text encoder. A missing VAE says so when it is used."""

    model: Model
    clip: None
    vae: VAE


def read_header(path: str | Path, memory: MemoryManager) -> CheckpointHeader:
    """The header of a file, mapped unless the settings forbid it."""
    return CheckpointHeader.read(path, use_mmap=not memory.settings.disable_mmap)


def load_diffusion_model(path: str | Path, memory: MemoryManager) -> Model:
    """The diffusion model of a file, whatever else is in it. Raises BadInput when no family matches."""
    header = read_header(path, memory)
    return _model(header, detect(header), memory)


def _model(header: CheckpointHeader, match: Match, memory: MemoryManager) -> Model:
    family = match.family
    config = family.infer_config(match.diffusion, overrides(header, "unet"))
    source = NetworkSource(
        "diffusion model", partial(family.network, config), match.diffusion.tensors, header.identity, MODEL_PREFIX
    )
    prediction = family.prediction(match.diffusion, header)
    return Model(family, config, source, make_sampling(prediction.kind, **prediction.settings), memory)


def load_vae(path: str | Path, memory: MemoryManager) -> VAE:
    """A file that is an autoencoder, or a checkpoint that holds one. Raises BadInput when it is neither."""
    header = read_header(path, memory)
    part = header
    for prefix in ("first_stage_model.", "vae."):
        if len(selected := header.select(prefix)):
            part = selected
    vae = _vae(header, part, memory)
    vae.throw_exception_if_invalid()
    return vae


def _vae(header: CheckpointHeader, part: CheckpointHeader, memory: MemoryManager) -> VAE:
    part = vae_from_diffusers(part)
    if "decoder.conv_in.weight" not in part or len(part.shape("decoder.conv_in.weight")) != 4:
        return VAE(None, None, memory, header.path.name)
    config = KLConfig.from_state(part.shapes(), overrides(header, "vae"))
    kind = Autoencoder(
        channels=config.embed_dim,
        downscale=config.downscale,
        encode=lambda network, pictures: network.encode(pictures),  # type: ignore[operator]
        decode=lambda network, latent: network.decode(latent),  # type: ignore[operator]
        encode_bytes_per_pixel=1767,
        decode_bytes_per_pixel=2178,
        colours=config.in_channels,
    )
    source = NetworkSource("VAE", partial(AutoencoderKL, config), part.tensors, header.identity, "first_stage_model.")
    return VAE(kind, source, memory, header.path.name)
