"""Files to MODEL, CLIP and VAE. Only headers are read here; weights are read when a model is first used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from limner.memory import MemoryManager
from limner.models import replaced
from limner.models.autoencoder import VAE
from limner.models.clip import CLIP
from limner.models.detect import Match, detect
from limner.models.load_text import clip_in_checkpoint
from limner.models.load_vae import vae_in_checkpoint
from limner.models.metadata import overrides, said
from limner.models.model import Model
from limner.models.reading import read_header
from limner.models.text.vocabulary import INSTALLED, Vocabularies
from limner.sampling.model_sampling import make_sampling
from limner.weights import CheckpointHeader, NetworkSource

MODEL_PREFIX = "diffusion_model."


class Checkpoint(NamedTuple):
    """What a checkpoint holds. `clip` None: it has no text encoder. A missing VAE says so when it is used."""

    model: Model
    clip: CLIP | None
    vae: VAE


def load_checkpoint(
    path: str | Path,
    memory: MemoryManager,
    embeddings: Sequence[Path] = (),
    vocabularies: Vocabularies = INSTALLED,
) -> Checkpoint:
    """All that a checkpoint holds.

    embeddings: folders of textual inversions, vocabularies: where tokenizers' data may be found; for its text encoder.

    Raises BadInput when no family matches or a part contradicts itself.
    """
    folders = [str(folder) for folder in embeddings]
    found = replaced.get(
        "load_checkpoint_guess_config", path, output_vae=True, output_clip=True, embedding_directory=folders
    )
    return read_checkpoint(path, memory, embeddings, vocabularies) if found is None else Checkpoint(*found[:3])


def read_checkpoint(
    path: str | Path,
    memory: MemoryManager,
    embeddings: Sequence[Path] = (),
    vocabularies: Vocabularies = INSTALLED,
) -> Checkpoint:
    """The same by Limner itself, whatever packs have put in its place."""
    return from_state(read_header(path, memory), memory, embeddings, vocabularies)


def from_state(
    header: CheckpointHeader,
    memory: MemoryManager,
    embeddings: Sequence[Path] = (),
    vocabularies: Vocabularies = INSTALLED,
) -> Checkpoint:
    """The same of tensors that have been read."""
    match = detect(header)
    text = match.family.text
    clip = None if text is None else clip_in_checkpoint(header, text, memory, embeddings, vocabularies)
    vae = vae_in_checkpoint(header, match.family.vae_prefixes, memory)
    return Checkpoint(_model(header, match, memory), clip, vae)


def load_diffusion_model(path: str | Path, memory: MemoryManager) -> Model:
    """The diffusion model of a file, whatever else is in it. Raises BadInput when no family matches."""
    found: Model | None = replaced.get("load_diffusion_model", path)
    return read_diffusion_model(path, memory) if found is None else found


def read_diffusion_model(path: str | Path, memory: MemoryManager) -> Model:
    """The same by Limner itself."""
    return model_of(read_header(path, memory), memory)


def model_of(header: CheckpointHeader, memory: MemoryManager) -> Model:
    """The diffusion model of a header."""
    return _model(header, detect(header), memory)


def _model(header: CheckpointHeader, match: Match, memory: MemoryManager) -> Model:
    family = match.family
    config = family.infer_config(match.diffusion, overrides(header, "unet"))
    source = NetworkSource(
        "diffusion model", partial(family.network, config), match.diffusion.tensors, header.identity, MODEL_PREFIX,
        said=said(header, "unet", "sampling"),
    )  # fmt: skip
    prediction = family.prediction(match.diffusion, header)
    if prediction.latent is not None:
        family = replace(family, latent=prediction.latent)
    return Model(family, config, source, make_sampling(prediction.kind, **prediction.settings), memory)
