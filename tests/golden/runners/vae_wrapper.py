"""Autoencoders of any kind, known by their headers: the bare networks, and the VAE as nodes call it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor

from limner.memory import DefaultSettings, MemoryManager
from limner.models.autoencoder import VAE
from limner.models.load_vae import vae_of
from limner.models.vae.kind import recognise
from limner.weights import CheckpointHeader
from tests.golden.case import Case, Check, UnsupportedCaseError, unsupported


@torch.inference_mode()
def autoencoder(path: Path, folder: Path) -> list[Check]:
    """Both ways; a case of a class is of the bare network, any other of the VAE around it."""
    case = Case(path, folder)
    if not {"pixels", "latent"} & case.inputs.keys():
        raise UnsupportedCaseError("No pictures and no latents.")
    header = CheckpointHeader.of(case.state_dict(), {"config": json.dumps(case.config)})
    match = recognise(header)
    if match is None:
        raise UnsupportedCaseError("No kind of autoencoder here has these keys.")
    if "cls" not in case.metadata:
        vae = vae_of(header, MemoryManager(DefaultSettings(force_fp32=True, cpu=True)))
        return [_wrapped(case, vae, name) for name in case.expected]
    kind, part = match
    with torch.device("meta"):
        network = kind.network(kind.infer_config(part, case.config))
    network.load_state_dict({name: part.tensor(name) for name in network.state_dict()}, assign=True)
    passes = {"encode": ("pixels", network.eval().encode), "decode": ("latent", network.decode)}
    checks = []
    for name in case.expected:
        given, function = passes.get(name, ("", None))
        checks.append(unsupported(name) if function is None else case.check(name, function(case.inputs[given])))
    return checks


def _wrapped(case: Case, vae: VAE, name: str) -> Check:
    """decode, encode, and the tiled ones, whose tile and overlap are in the output's name."""
    tiled = re.search(r"_tiled_(?:t(\d+)_)?(\d+)_(\d+)", name)
    if name.startswith("decode"):
        found = vae.decode_tiled(case.inputs["latent"], *_tiles(tiled)) if tiled else vae.decode(case.inputs["latent"])
    elif name.startswith("encode"):
        found = vae.encode_tiled(case.inputs["pixels"], *_tiles(tiled)) if tiled else vae.encode(case.inputs["pixels"])
    else:
        return unsupported(name)
    return case.check(name, _kept(found, case.expected[name]))


def _tiles(said: re.Match[str]) -> tuple[int | None, ...]:
    """Width, height, overlap, frames, overlap of frames."""
    frames, tile, overlap = (None if number is None else int(number) for number in said.groups())
    return tile, tile, overlap, frames, None if frames is None else 1


def _kept(found: Tensor, expected: Tensor) -> Tensor:
    """Of a video (B, T, H, W, C) the frames that the case has kept: the first, and every so many."""
    if found.ndim != 5 or found.shape[-1] != 3 or found.shape[1] == expected.shape[1]:
        return found
    return found[:, :: (found.shape[1] - 1) // max(1, expected.shape[1] - 1)]


RUNNERS = {"vae-*/*.safetensors": autoencoder}
