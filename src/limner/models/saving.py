"""Models to files: the tensors, names and metadata that loaders know them by again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.models.autoencoder import VAE
from limner.models.clip import CLIP, TextEncoder
from limner.models.convert import clip_to_open_clip
from limner.models.family import Family
from limner.models.model import Model
from limner.sampling.latent import LatentFormat
from limner.sampling.model_sampling import ModelSampling
from limner.sampling.prediction import EDM, V
from limner.sampling.time import DiscreteTime, EDMTime
from limner.weights import NetworkSource, save

ZERO_TERMINAL = 1000.0
"""A discrete schedule that begins above this level begins at (all but) pure noise."""


def save_checkpoint(
    path: Path, model: Model, clip: CLIP | None, vae: VAE | None, metadata: Mapping[str, str], title: str
) -> None:
    """A checkpoint of the parts given, patched as they are. title: of the ModelSpec metadata."""
    family, sources = model.family, [model.source]
    tensors = patched(model.source, family.saved_prefix)
    if clip is not None:
        tensors |= clip_tensors(clip, family)
        sources.append(clip.source)
    if vae is not None:
        tensors |= patched(vae.source, family.vae_prefixes[0])
        sources.append(vae.source)
    tensors |= sampling_marks(model.sampling, model.latent_format)
    spec_of = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": family.modelspec or family.name,
        "modelspec.implementation": "sgm",
        "modelspec.title": title,
        "modelspec.predict_key": "v" if isinstance(model.sampling.prediction, V) else "epsilon",
    }
    save(path, tensors, {**metadata, **spec_of, **said(*sources)})


def clip_tensors(clip: CLIP, family: Family) -> dict[str, Tensor]:
    """The text encoders' tensors under the names that the family's checkpoints have."""
    if family.text is None:
        raise BadInput(f"A checkpoint of {family.title} holds no text encoder.", do="Save it without CLIP.")
    prefixes = {part.encoder: part.prefixes[0] for part in family.text.parts}
    found: dict[str, Tensor] = {}
    for encoder in clip.encoders:
        if encoder.name not in prefixes:
            raise BadInput(
                f"A checkpoint of {family.title} holds no {encoder.kind.title}.",
                why=f"Its text encoders are {', '.join(prefixes)}.",
                do="Save the text encoders by themselves.",
            )
        prefix = prefixes[encoder.name]
        own = encoder_tensors(clip, encoder, "")
        if prefix.endswith(".model."):  # where OpenCLIP's own names are
            own = clip_to_open_clip(own)
        elif not prefix.endswith("transformer."):
            prefix += "transformer."
        found |= {prefix + name: tensor for name, tensor in own.items()}
    return found


def encoder_tensors(clip: CLIP, encoder: TextEncoder, prefix: str) -> dict[str, Tensor]:
    """One text encoder's patched tensors, under its network's names with this prefix."""
    return {
        prefix + name.removeprefix(encoder.prefix): tensor
        for name, tensor in patched(clip.source, "", encoder.prefix).items()
    }


def save_clip(path: Path, clip: CLIP, encoder: TextEncoder, metadata: Mapping[str, str]) -> None:
    """A text encoder by itself, under the names it has in the files of its publisher."""
    other = {f"{one.name}.tokenizer_json" for one in clip.encoders}
    own = {name: value for name, value in clip.source.said.items() if name not in other | {*_names(clip)}}
    for name in (f"{encoder.name}.tokenizer_json", encoder.name):
        if name in clip.source.said:
            own[name.removeprefix(f"{encoder.name}.")] = clip.source.said[name]
    save(path, encoder_tensors(clip, encoder, ""), {**metadata, **_metadata([own])})


def _names(clip: CLIP) -> list[str]:
    return [encoder.name for encoder in clip.encoders]


def save_vae(path: Path, vae: VAE, metadata: Mapping[str, str]) -> None:
    """An autoencoder by itself."""
    save(path, patched(vae.source, ""), {**metadata, **said(vae.source)})


def patched(source: NetworkSource, prefix: str, only: str = "") -> dict[str, Tensor]:
    """Every weight with its patches as it is kept in the file, under names with this prefix.

    only: what the names of the weights begin with that are meant.
    """
    return {prefix + name: source.kept(name).contiguous() for name in source.tensors if name.startswith(only)}


def sampling_marks(sampling: ModelSampling, latent: LatentFormat) -> dict[str, Tensor]:
    """Tensors that tell loaders what the network predicts and in which latent space, where it is not noise."""
    kind, time = type(sampling.prediction), sampling.time
    if kind is EDM and latent.mean is not None and latent.std is not None:
        statistics = {"edm_mean": latent.mean, "edm_std": latent.std}
        return {name: torch.tensor(values).view(1, -1, 1, 1) for name, values in statistics.items()}
    if kind is not V:
        return {}
    if isinstance(time, DiscreteTime):
        empty = torch.zeros(0)
        return {"v_pred": empty} | ({"ztsnr": empty} if sampling.sigma_max > ZERO_TERMINAL else {})
    if type(time) is EDMTime:
        ends = {"max": sampling.sigma_max, "min": sampling.sigma_min}
        return {f"edm_vpred.sigma_{end}": torch.tensor(value) for end, value in ends.items()}
    return {}


def said(*sources: NetworkSource) -> dict[str, str]:
    """The `config` and the tokenizer of the files that the parts come from, for the metadata of one file."""
    return _metadata([source.said for source in sources])


def _metadata(parts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    config: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for name, value in (item for part in parts for item in part.items()):
        if name.endswith("tokenizer_json"):
            texts[name] = str(value)
        else:
            config[name] = value
    return texts | ({"config": json.dumps(config)} if config else {})
